"""Initialization of a module whose weights are composed, as its plain class does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wnconvert.errors import OptionError
from wnconvert.fitness import is_distributed
from wnconvert.modules import normalized
from wnconvert.torch_private import PARAMETERS, flat_weight_names


def resetter(base: Any) -> Callable[[Any], None]:
    """Return ``reset_parameters`` for modules of a class derived from ``base``."""

    def reset_parameters(module: nn.Module) -> None:
        """Initialize as the plain module does; what it writes into its weights is split."""
        weights = {name: _empty(module, name, how) for name, how in normalized.normalizations(module).items()}
        twin = base.__new__(base)
        twin.__dict__.update(module.__dict__)
        twin.__dict__.pop(normalized.KEPT)
        twin.__dict__[PARAMETERS] = _plain_parameters(module, weights)
        base.reset_parameters(twin)
        _take(module, twin, [*weights])

    return reset_parameters


@torch.no_grad()
def _take(module: nn.Module, twin: nn.Module, weights: list[str]) -> None:
    """Take what a plain module has become, whatever else its class does there."""
    parameters = twin.__dict__.pop(PARAMETERS)
    module.__dict__.update(twin.__dict__)
    module.__dict__[PARAMETERS].update({name: each for name, each in parameters.items() if name not in weights})
    for name in weights:
        normalized.assign(module, name, parameters[name])


def _empty(module: nn.Module, name: str, how: normalized.Normalization) -> nn.Parameter:
    like = normalized.tensor_of(module, how.lead).detach()
    if is_distributed(like):
        raise OptionError(f"{name!r} is sharded, and cannot be split; load a state dict, or initialize before")
    return nn.Parameter(torch.empty_like(like))


def _plain_parameters(module: nn.Module, weights: dict[str, nn.Parameter]) -> dict[str, nn.Parameter | None]:
    """Return the parameters of the plain module, those of a recurrent one in its order, in which it draws."""
    parts = {key for how in normalized.normalizations(module).values() for key in how.keys.values()}
    found = {**weights, **{name: each for name, each in module.__dict__[PARAMETERS].items() if name not in parts}}
    first = flat_weight_names(module) if isinstance(module, nn.RNNBase) else []
    return {name: found[name] for name in dict.fromkeys([*first, *found]) if name in found}
