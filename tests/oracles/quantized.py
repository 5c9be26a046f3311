"""Models to quantize, each plain, normalized, and folded: what a quantizer does to the plain one is what it can do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import wnconvert

#: the normalized models that a quantizer is tried on, by how they came to be so
CASES = (
    "vocoder, parametrized",
    "vocoder, applied in place",
    "vocoder, applied graph",
    "linear, spectral norm",
    "linear, parametrized",
    "linear, applied in place",
    "linear, applied graph",
)


def vocoder() -> nn.Sequential:
    """Return convolutions as a vocoder has them, one of which is transposed; exporters compute small weights ahead."""
    return nn.Sequential(
        nn.Conv1d(16, 64, 7, padding=3),
        nn.ReLU(),
        nn.ConvTranspose1d(64, 32, 8, 4, 2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 11, padding=5),
    )


def linear() -> nn.Sequential:
    """Return linear layers, larger than those whose weights exporters compute ahead."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96))


INPUTS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "vocoder": (vocoder, (2, 16, 12)),
    "linear": (linear, (4, 64)),
}


def inputs(case: str) -> Tensor:
    """Return an input."""
    return torch.randn(INPUTS[case.split(", ")[0]][1], generator=torch.Generator().manual_seed(1))


def normalized(case: str) -> nn.Module:
    """Return a normalized model in evaluation mode."""
    kind, how = case.split(", ")
    torch.manual_seed(0)
    model = INPUTS[kind][0]().eval()
    if how.startswith("applied"):
        return wnconvert.apply(model, "weight_norm", how="graph" if how.endswith("graph") else "module").model
    api = parametrizations.spectral_norm if how == "spectral norm" else parametrizations.weight_norm
    for layer in model:
        if isinstance(getattr(layer, "weight", None), Tensor):
            api(layer)
    return model.eval()


def folded(case: str) -> nn.Module:
    """Return the model, folded."""
    return wnconvert.fold(normalized(case)).model


def plain(case: str) -> nn.Module:
    """Return a model that never was normalized, with the weights that the normalized one computes."""
    model = INPUTS[case.split(", ")[0]][0]().eval()
    live = normalized(case)
    live(inputs(case))
    with torch.no_grad():
        for name, layer in model.named_children():
            if isinstance(getattr(layer, "weight", None), Tensor):
                layer.weight.copy_(weight_of(live, name))  # type: ignore[union-attr, operator]
                layer.bias.copy_(live.get_submodule(name).bias)  # type: ignore[union-attr, operator]
    return copy.deepcopy(model)


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return a weight as the model computes it, a graph by torch's kernel from its parts."""
    layer = model.get_submodule(name)
    if isinstance(model, torch.fx.GraphModule):
        return torch._weight_norm(layer.weight_v, layer.weight_g, 0)  # type: ignore[no-any-return, operator]
    return layer.weight  # type: ignore[return-value]
