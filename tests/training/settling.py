"""Models of all kinds of layers, and what their layers give."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import wnconvert

GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(16, 3, 20, generator=GENERATOR) * 2 + 1
Y = torch.randn(7, 3, 20, generator=GENERATOR) - 3


class Branching(nn.Module):
    """No trace goes through it, and it has all kinds of layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose1d(8, 6, 4, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).tanh()
        x = self.depthwise(x).relu() if x.sum() < 1e9 else x
        x = self.up(x).sigmoid()
        return self.head(x.mean(-1))


def sequential() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv1d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.ConvTranspose1d(8, 6, 4, stride=2),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def in_two_dims() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 2, groups=1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, groups=4))
    return nn.Sequential(nn.Unflatten(2, (4, 5)), nn.Flatten(1, 2), nn.Unflatten(1, (1, 12)), *layers)


def ours(model: nn.Module, scheme: object = "weight_norm", **how: object) -> nn.Module:
    return wnconvert.apply(model, scheme, **{"dim": "output", **how}).model


def by_parametrizations(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear, nn.ConvTranspose1d)):
            parametrizations.weight_norm(module, dim=int(isinstance(module, nn.ConvTranspose1d)))
    return model


def by_hooks(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear, nn.ConvTranspose1d)):
            weight_norm(module, dim=int(isinstance(module, nn.ConvTranspose1d)))
    return model


def gives(model: nn.Module, *batches: Tensor) -> dict[str, Tensor]:
    """Return what layers give before their activations, with all positions in one dim: (units, positions)."""
    found: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda m, args, y, name=name: found.setdefault(name, []).append(y.transpose(0, 1)))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv1d, nn.Linear, nn.ConvTranspose1d, nn.Conv2d, nn.ConvTranspose2d))
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat([y.flatten(1) for y in ys], 1).double() for name, ys in found.items()}


def assert_settled(model: nn.Module, *batches: Tensor) -> None:
    found = gives(model, *batches)
    assert found
    for y in found.values():
        assert y.mean(1).abs().max() < 1e-5
        assert (y.var(1, unbiased=False) - 1).abs().max() < 1e-4
