"""What a module keeps of its composed weights, and how they are read, assigned and loaded.

The classes that make a module read its weights in this way are in `wnconvert.modules.derived`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.errors import OptionError
from wnconvert.modules.aliases import Alias
from wnconvert.modules.composition import composed
from wnconvert.modules.network import Network
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.torch_private import PARAMETERS, is_transformed, is_wrapped_by_transform
from wnconvert.weights.loading import respell

#: where a module keeps what is in force for it
KEPT = "_wnconvert"


@dataclass
class Normalization:
    """How one weight of a module is composed; never changed.

    Attributes:
        scheme: the scheme.
        spec: the static facts of the weight.
        keys: names of the tensors that the module holds, by part.
        network: the weights that it is composed together with, if the scheme takes several together.
        member: which of them it is.
    """

    scheme: Scheme
    spec: WeightSpec
    keys: Mapping[str, str]
    network: Network | None = None
    member: int = 0

    @property
    def lead(self) -> str:
        """Name of the tensor that has the shape and dtype of the weight."""
        return self.keys[self.scheme.direction]

    def __deepcopy__(self, memo: dict[int, Any]) -> Normalization:
        # nothing in it ever changes but the network, which is made of tensors
        return self if self.network is None else replace(self, network=copy.deepcopy(self.network, memo))


@dataclass
class Kept:
    """What is in force for one module; its class follows from this.

    Attributes:
        weights: composed weights, by name.
        aliases: attributes that hold composed weights, by name.
        network: the weights that are composed together while this module, the root of the model, runs.
        cache: what was composed since `wnconvert.cached` was entered, inside of it.
    """

    weights: dict[str, Normalization] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)
    network: Network | None = None
    cache: Any = None

    def __bool__(self) -> bool:
        return bool(self.weights or self.aliases or self.network)


def kept(module: nn.Module) -> Kept | None:
    """Return what is in force for ``module``, if anything is."""
    found: Kept | None = module.__dict__.get(KEPT)
    return found


def keep(module: nn.Module, what: Kept | None) -> None:
    """Set what is in force for ``module``; its class is set by `wnconvert.modules.derived`."""
    if what is None:
        module.__dict__.pop(KEPT, None)
    else:
        module.__dict__[KEPT] = what


def normalizations(module: nn.Module) -> Mapping[str, Normalization]:
    """Return how the composed weights of ``module`` are composed, by name."""
    found = kept(module)
    return {} if found is None else found.weights


def weight_of(module: nn.Module, name: str, training: bool) -> Tensor:
    """Return a composed weight.

    Args:
        module: the module.
        name: name of the weight.
        training: update the state of the scheme first, as torch's parametrizations do when they are read in training.
    """
    held = module.__dict__[KEPT]
    if held.cache is None or torch.compiler.is_compiling() or is_transformed():
        return _composed(module, held.weights[name], training)
    how = held.weights[name]
    leaves = [tensor_of(module, key) for part, key in how.keys.items() if part not in how.scheme.state]
    steps = training and bool(how.scheme.state)
    return held.cache.weight(name, leaves, steps, lambda: _composed(module, how, training))


def _composed(module: nn.Module, how: Normalization, training: bool) -> Tensor:
    scheme, spec = how.scheme, how.spec
    parts = {part: tensor_of(module, key) for part, key in how.keys.items()}
    if scheme.state and scheme.dynamic:
        _update(scheme, spec, parts, training)
    if how.network is not None:
        parts |= how.network.common(how.member, parts)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed():
        return composed(scheme, parts, spec)
    # Torch chooses its kernels by requires_grad even then (matmul and recurrent modules do), and they differ in the
    # last bit. So the composed weight has it too, for which it must not be an inference tensor.
    trains = any(part.requires_grad for part in parts.values())
    if not torch.is_inference_mode_enabled():
        return scheme.compose(parts, spec).requires_grad_(trains)
    with torch.inference_mode(False), torch.no_grad():
        return scheme.compose(parts, spec).requires_grad_(trains)


@torch.no_grad()
def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Split what is assigned to a composed weight."""
    how = module.__dict__[KEPT].weights[name]
    if tuple(value.shape) != how.spec.shape:
        raise OptionError(f"weight of shape {tuple(value.shape)}; it must be {how.spec.shape}")
    like = tensor_of(module, how.lead).detach()
    value = torch.empty_like(like).copy_(value)
    for part, tensor in how.scheme.split(value, replace(how.spec, dtype=value.dtype)).items():
        tensor_of(module, how.keys[part]).copy_(tensor)


def load(module: nn.Module, state_dict: dict[str, Any], prefix: str, assigning: bool) -> None:
    """Spell the parts in a state dict as ours where they are in a layout of torch, and split plain weights in it.

    Args:
        module: the module.
        state_dict: the state dict; it is changed.
        prefix: what the module's keys begin with.
        assigning: the tensors will be taken as they are, instead of being copied to those of the module.
    """
    found = kept(module)
    if found is not None and found.network is not None:
        found.network.load(state_dict, prefix, assigning)
    for name, how in normalizations(module).items():
        like = None if assigning else tensor_of(module, how.lead).detach()
        respell(state_dict, prefix + name, how.scheme, how.spec, like)


def _update(scheme: Scheme, spec: WeightSpec, parts: dict[str, Tensor], training: bool) -> None:
    new: Mapping[str, Tensor] = {}
    if training:
        with torch.no_grad():
            new = scheme.update(parts, spec)
            for part, value in new.items():
                _overwrite(parts[part], value)
    if training or torch.is_grad_enabled():
        # the buffers may be updated again before the backward
        for part in scheme.state:
            fresh = None if torch.compiler.is_compiling() else new.get(part)
            if fresh is None or fresh.dtype != parts[part].dtype:
                fresh = _apart(parts[part], training)
            parts[part] = fresh


def _apart(state: Tensor, written: bool) -> Tensor:
    """Return a copy of a buffer, which is what a backward must see.

    The default backend of torch.compile, where it thinks that cheaper, computes the copy again in the backward: from
    the buffers, as if these were not written to in the forward. A sum, it keeps; so this is one, of one term each.
    """
    if written and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return state.unsqueeze(-1).cumsum(-1, dtype=state.dtype).squeeze(-1)
    return state.clone()


def _overwrite(state: Tensor, value: Tensor) -> None:
    """Update a buffer in place."""
    transformed = not torch.compiler.is_compiling() and is_transformed()
    if transformed and not is_wrapped_by_transform(state):
        # torch.func.grad and its like let a buffer that is no argument be written to in this way only
        torch.mul(value, 1, out=state)
    else:
        state.copy_(value)


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """Return the parameter or buffer ``name`` of a module."""
    tensor: Tensor | None = module.__dict__[PARAMETERS].get(name)  # without a call, for each forward comes by
    # buffers, and what torch.nn.DataParallel sets in its replicas
    return getattr(module, name) if tensor is None else tensor
