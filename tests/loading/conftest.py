"""Models in every form in which a weight may be held."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import wnconvert

#: what the models are run on
X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))


def plain(seed: int = 0) -> nn.Sequential:
    """A model with all that a state dict has: several kinds of weights, buffers, a layer without bias."""
    torch.manual_seed(seed)
    up = nn.ConvTranspose1d(4, 5, 3, padding=1)
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), up, nn.Conv1d(5, 6, 1, bias=False)
    )


def _normed(norm: Callable[..., Any], seed: int) -> nn.Module:
    model = plain(seed)
    for index, dim in ((0, 0), (3, 1), (4, None)):
        norm(model[index], dim=dim)
    return moved(model)


def moved(model: nn.Module) -> nn.Module:
    """Return the model after a training step, so that magnitudes are no longer the norms that they were made from."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    return model


def _spectral(norm: Callable[..., Any], seed: int) -> nn.Module:
    model = plain(seed)
    for index in (0, 3, 4):
        norm(model[index])
    for _ in range(50):  # vectors and running statistics of a model that was trained
        model(X)
    return model


def _applied(scheme: Any, seed: int, **how: Any) -> nn.Module:
    model, _ = wnconvert.apply(plain(seed), scheme, **how)
    return moved(model)


FORMS: dict[str, Callable[[int], nn.Module]] = {
    "plain": plain,
    "hook": lambda seed: _normed(weight_norm, seed),
    "parametrization": lambda seed: _normed(parametrizations.weight_norm, seed),
    "in place": lambda seed: _applied("weight_norm", seed),
    "in place, log g": lambda seed: _applied(wnconvert.WeightNorm(log_g=True), seed),
    "centered": lambda seed: _applied("centered_weight_norm", seed),
    "network": lambda seed: _applied("network_norm", seed),
    "graph": lambda seed: _applied("weight_norm", seed, how="graph"),
    "wrapped": lambda seed: nn.ModuleDict({"module": _normed(parametrizations.weight_norm, seed)}),
}
SPECTRAL: dict[str, Callable[[int], nn.Module]] = {
    "hook": lambda seed: _spectral(spectral_norm, seed),
    "parametrization": lambda seed: _spectral(parametrizations.spectral_norm, seed),
}


def output(model: nn.Module, *, training: bool = False) -> Tensor:
    """Return what a model makes of `X`."""
    inner: Any = model["module"] if isinstance(model, nn.ModuleDict) else model
    with torch.no_grad():
        result: Tensor = inner.train(training)(X)
    inner.eval()
    return result


def values(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors of a model."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {name: copy.deepcopy(tensor.detach()) for name, tensor in tensors.items()}
