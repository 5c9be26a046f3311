"""Models that are converted in place, and one whose weights have a norm in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import wnconvert
from wnconvert.modules.inplace import apply_in_place
from wnconvert.scheme import Scheme, resolve_scheme
from wnconvert.schemes.network_norm import NetworkNorm
from wnconvert.selection import Selection


class Tower(nn.Module):
    """Two ways through tied and untied layers, parts of which may be checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)) for _ in range(3))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.reentrant: bool | None = None

    def forward(self, index: Tensor) -> Tensor:
        x = self.embed(index)
        for block in self.blocks:
            x = x + (block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant))
        return self.head(x)


INDEX = torch.tensor([[0, 1, 2], [6, 5, 4]])


def converted(model: nn.Module) -> nn.Module:
    apply_in_place(model, NetworkNorm(), None, Selection())
    return model


def disturbed(model: nn.Module) -> nn.Module:
    """As after some training: the ratio of g and the norm is not 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(0.7 if name.endswith("network_g") else 1.1)
    return model


class Nested(nn.Module):
    """Calls itself, and changes what it is made of between its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = self.fc(x)
        return self(x, depth - 1) + self.fc(x) if depth else x


def converted_in_place(model: nn.Module, scheme: str | Scheme = "weight_norm") -> nn.Module:
    resolved = resolve_scheme(scheme)
    apply_in_place(model, resolved, resolved.default_dim, wnconvert.Selection())  # type: ignore[arg-type]
    return model


class Untraceable(nn.Module):
    """A model that takes a decision on a value, and so has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(2, 2))
        self.config = {"name": "untraceable"}

    def forward(self, index: Tensor) -> Tensor:
        hidden = self.conv(self.embed(index).transpose(1, 2)).transpose(1, 2)
        if hidden.sum() > 1e9:
            return hidden
        return self.head(hidden) * self.scale.sum()

    def generate(self) -> str:
        return "still here"
