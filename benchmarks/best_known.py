"""The fastest known ways to write what schemes compute, to compare with; their last bits are not those of the schemes.

Each replaces the weights of a model's layers by a property that calls one function, which costs less than torch's
parametrizations do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from wnconvert.torch_private import parameters_of, weight_norm

#: a function of the direction and further parts, and the shapes of these
Way = tuple[Callable[..., Tensor], Callable[[Tensor], list[tuple[int, ...]]]]


def batch_norm(raw: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Standardize rows as timm does."""
    rows = raw.reshape(1, len(raw), -1)
    return F.batch_norm(rows, None, None, gain, shift, training=True, momentum=0.0, eps=1e-5).view_as(raw)


def layer_norm(raw: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Standardize rows by the kernel that normalizes the last dim."""
    rows = F.layer_norm(raw.flatten(1), (raw[0].numel(),), eps=1e-5)
    return torch.addcmul(shift.unsqueeze(1), rows, gain.unsqueeze(1)).view_as(raw)


def scaled_batch_norm(raw: Tensor, gain: Tensor) -> Tensor:
    """Standardize rows, and scale them, as timm does."""
    rows = raw.reshape(1, len(raw), -1)
    scale = gain * raw[0].numel() ** -0.5
    return F.batch_norm(rows, None, None, scale, training=True, momentum=0.0, eps=1e-6).view_as(raw)


def scaled_layer_norm(raw: Tensor, gain: Tensor) -> Tensor:
    """Standardize rows by the kernel that normalizes the last dim, and scale them."""
    fan_in = raw[0].numel()
    rows = F.layer_norm(raw.flatten(1), (fan_in,), eps=1e-6)
    return (rows * (gain * fan_in**-0.5).unsqueeze(1)).view_as(raw)


def unit(direction: Tensor) -> Tensor:
    """Bring rows to unit length by torch's kernel of weight norm."""
    return weight_norm(direction, direction.new_ones(_kept(direction)), 0)


def centered(c: Tensor, g: Tensor, shift: Tensor) -> Tensor:
    """Take off the mean of each row, and call torch's kernel of weight norm."""
    return weight_norm(c - c.mean(tuple(range(1, c.dim())), keepdim=True), g, 0) + shift


def _kept(weight: Tensor) -> tuple[int, ...]:
    return len(weight), *[1] * (weight.dim() - 1)


def _rows(count: int) -> Callable[[Tensor], list[tuple[int, ...]]]:
    return lambda weight: [(len(weight),)] * count


def _columns(count: int) -> Callable[[Tensor], list[tuple[int, ...]]]:
    return lambda weight: [_kept(weight)] * count


def composing(way: Way) -> Callable[[nn.Module], nn.Module]:
    """Return what makes a model compose its weights in a way."""
    function, shapes = way

    def read(self: nn.Module) -> Tensor:
        own = parameters_of(self)
        return function(own["raw"], *[own[name] for name in own if name.startswith("more_")])

    def convert(model: nn.Module) -> nn.Module:
        for layer in list(model.modules()):
            weight = parameters_of(layer).pop("weight", None)
            if weight is not None:
                layer.raw = nn.Parameter(weight.detach().clone())
                for index, shape in enumerate(shapes(weight)):
                    setattr(layer, f"more_{index}", nn.Parameter(torch.ones(shape)))
                layer.__class__ = type(type(layer).__name__, (type(layer),), {"weight": property(read)})
        return model

    return convert


def registering(register: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Return what gives each layer of a model a parametrization of torch."""

    def convert(model: nn.Module) -> nn.Module:
        for layer in list(model.modules()):
            if hasattr(layer, "weight"):
                register(layer)
        return model

    return convert


#: by scheme, by name
BEST_KNOWN: Mapping[str, Mapping[str, Callable[[nn.Module], nn.Module]]] = {
    "weight_standardization": {
        "F.batch_norm": composing((batch_norm, _rows(2))),
        "F.layer_norm": composing((layer_norm, _rows(2))),
    },
    "scaled_weight_standardization": {
        "F.batch_norm": composing((scaled_batch_norm, _rows(1))),
        "F.layer_norm": composing((scaled_layer_norm, _rows(1))),
    },
    "unit_norm": {"torch._weight_norm": composing((unit, _columns(0)))},
    "centered_weight_norm": {"torch._weight_norm": composing((centered, _columns(2)))},
    "weight_norm": {"torch": registering(parametrizations.weight_norm)},
    "spectral_norm": {"torch": registering(parametrizations.spectral_norm)},
    "sigma_reparam": {},
    "magnitude_preserving": {},
    "network_norm": {},
}
