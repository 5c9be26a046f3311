"""Modules whose weights are composed whenever they are read.

`normalize` gives a module that holds the parts a class that derives from its own and has the weight as a property.
So the module stays what it was: ``isinstance``, ``.weight``, its methods and its hooks. Unlike with torch's
parametrizations, the class is shared by all modules of a kind and never changed afterwards: what is in force for one
module is kept in the module, and a copy of it can be restored without harm to the original.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.errors import OptionError, WnconvertError
from wnconvert.graph.loading import respell
from wnconvert.scheme import Scheme, WeightSpec

#: where a module keeps what is in force for it: weight name -> Normalization
_KEPT = "_wnconvert"


@dataclass(frozen=True)
class Normalization:
    """How one weight of a module is composed."""

    scheme: Scheme
    spec: WeightSpec


def normalizations(module: nn.Module) -> Mapping[str, Normalization]:
    """Return what is in force for ``module``, by weight name."""
    found: Mapping[str, Normalization] = module.__dict__.get(_KEPT, {})
    return found


def normalize(module: nn.Module, names: Mapping[str, Normalization]) -> None:
    """Make weights of ``module`` composed ones; their parts must be registered and the weights themselves gone.

    Args:
        module: the module; its class becomes one derived from its own.
        names: what is to be in force, by weight name, besides what already is.
    """
    in_force = {**normalizations(module), **names}
    module.__dict__[_KEPT] = in_force
    if isinstance(module, nn.RNNBase):
        module.__dict__.pop("_flat_weights", None)
        module._flat_weight_refs = []
    module.__class__ = _normalized_class(plain_class(module), tuple(in_force))


def denormalize(module: nn.Module, names: set[str]) -> None:
    """Make weights plain attributes again; the caller registers their values."""
    rest = {name: kept for name, kept in normalizations(module).items() if name not in names}
    if rest:
        module.__dict__[_KEPT] = rest
    else:
        module.__dict__.pop(_KEPT, None)
    base = plain_class(module)
    module.__class__ = _normalized_class(base, tuple(rest)) if rest else base


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that ``module`` has without normalization."""
    return getattr(type(module), "_wnconvert_plain_class", type(module))


def compose(module: nn.Module, name: str) -> Tensor:
    """Return a composed weight; in training, the scheme's state is updated first, as torch's parametrizations do."""
    kept = normalizations(module)[name]
    scheme, spec = kept.scheme, kept.spec
    parts = {part: _part(module, f"{name}_{part}") for part in scheme.parts}
    if scheme.dynamic and module.training:
        with torch.no_grad():
            new = scheme.update(parts, spec)
            for part, value in new.items():
                parts[part].copy_(value)
            # the buffers may be updated again before the backward
            parts.update({part: parts[part].clone() for part in new})
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return scheme.compose(parts, spec)
    # Torch chooses its kernels by requires_grad even then (matmul and recurrent modules do), and they differ in the
    # last bit. So the composed weight has it too, for which it must not be an inference tensor.
    with torch.inference_mode(False), torch.no_grad():
        return scheme.compose(parts, spec).requires_grad_(any(part.requires_grad for part in parts.values()))


def _part(module: nn.Module, name: str) -> Tensor:
    entries: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
    return entries[name]


class _ComposedWeight:
    """A property that composes a weight from its parts, and splits what is assigned to it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        return self if module is None else compose(module, self._name)

    @torch.no_grad()
    def __set__(self, module: nn.Module, value: Tensor) -> None:
        kept = normalizations(module)[self._name]
        if tuple(value.shape) != kept.spec.shape:
            raise OptionError(f"weight of shape {tuple(value.shape)}; it must be {kept.spec.shape}")
        for part, tensor in kept.scheme.split(value, replace(kept.spec, dtype=value.dtype)).items():
            _part(module, f"{self._name}_{part}").copy_(tensor)


class _FlatWeights:
    """The list of weights that a recurrent module passes to its kernel, composed anew in each forward."""

    def __get__(self, module: nn.RNNBase | None, owner: type) -> Any:
        if module is None:
            return self
        return [getattr(module, name, None) for name in module._flat_weights_names]

    def __set__(self, module: nn.RNNBase, value: Any) -> None:
        pass  # torch assigns the list when the module is moved or unpickled; there is nothing to keep


def _load_from_state_dict(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
) -> None:
    """Load a state dict in either of torch's layouts, or a plain one, whose weights are split."""
    for name, kept in normalizations(module).items():
        respell(state_dict, prefix + name, kept.scheme, kept.spec)
    super(type(module), module)._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[misc]


@cache
def _make_class(base: Any, names: tuple[str, ...]) -> type[nn.Module]:
    members: dict[str, Any] = {name: _ComposedWeight(name) for name in names}
    members |= {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__deepcopy__": _deepcopy,
        "__copy__": _copy,
        "__reduce_ex__": _refuse_to_pickle,
        "_load_from_state_dict": _load_from_state_dict,
        "_wnconvert_plain_class": base,
    }
    if issubclass(base, nn.RNNBase):
        members |= {
            "_flat_weights": _FlatWeights(),
            "_weights_have_changed": lambda self: False,
            "flatten_parameters": lambda self: None,
        }
    return type(base.__name__, (base,), members)


def _normalized_class(base: Any, names: tuple[str, ...]) -> type[nn.Module]:
    return _make_class(base, tuple(sorted(names)))


def _deepcopy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    copied = memo[id(module)] = object.__new__(type(module))
    copied.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return copied


def _copy(module: nn.Module) -> nn.Module:
    copied = object.__new__(type(module))
    copied.__dict__.update(module.__dict__)
    return copied


def _refuse_to_pickle(module: nn.Module, protocol: int) -> Any:
    raise WnconvertError(
        f"a {type(module).__name__} that was normalized in place cannot be pickled, like torch's parametrized modules; "
        "save its state_dict(), or fold it first"
    )
