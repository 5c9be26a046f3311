"""Copy a model, so that a conversion leaves alone the one that it was given."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from wnconvert.errors import CopyError, described
from wnconvert.fitness import Overlaps, has_gaps
from wnconvert.graph.entries import held_tensors
from wnconvert.torch_private import BUFFERS, CONTENTS, PARAMETERS, accumulation_hooks_of, children_of, gradient_hooks_of

#: what to do with a model that cannot be copied, where it is converted
IN_PLACE = "convert it where it is, with inplace=True"


def clone(model: nn.Module, sharing: Iterable[Tensor] = (), *, instead: str = IN_PLACE) -> nn.Module:
    """Return a copy of ``model`` that shares nothing with it; as `copy.deepcopy`, but faster and without its losses.

    `deepcopy` of torch's GraphModule loses what its root holds under a second name, and which buffers are persistent.

    Args:
        model: the model.
        sharing: tensors of it that the copy is to share after all.
        instead: what to do where it cannot be copied.

    Raises:
        CopyError: it holds what cannot be copied, or what would still refer to the model itself.
    """
    with torch.inference_mode(False):
        memo: dict[int, Any] = {id(tensor): tensor for tensor in sharing}
        try:
            _prepare(model, memo)
            copied = copy.deepcopy(model, memo)
        except Exception as error:
            raise _not_copied(model, described(error), instead) from error
    for module in model.modules():
        _require_own_forward(model, module, instead)
    for tensor in model.parameters():
        if memo.get(id(tensor), tensor) is not tensor:
            _carry_hooks(tensor, memo[id(tensor)])
    if isinstance(model, GraphModule):
        # the copies of what its own deepcopy forgets to put into the copied module
        attributes = memo.get(id(model.__dict__), {})
        copied.__dict__.update({name: attributes[name] for name in CONTENTS if name in attributes})
    return copied


def _prepare(model: nn.Module, memo: dict[int, Any]) -> None:
    """Add to memo the copies of what deepcopy would refuse, untie, or take long for."""
    held = [(name, tensor) for name, tensor in held_tensors(model) if id(tensor) not in memo]
    overlaps = Overlaps(held)
    for _, tensor in held:
        computed, plain = not tensor.is_leaf, type(tensor) is nn.Parameter
        if (computed or plain) and (has_gaps(tensor) or overlaps.reason_against(tensor)):
            # deepcopy copies a tensor with its memory, once for all that lie there, and of a parameter the values
            copied = copy.deepcopy(tensor.detach(), memo)
            memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if plain else copied
        elif computed:
            # torch leaves computed weights in modules (hooks) and in lists (recurrent ones)
            memo[id(tensor)] = tensor.detach().clone()
    for module in model.modules():
        if _is_plain(module):
            _clone_plain(module, memo)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is of one of torch's own classes, has no submodules and no way of its own to be copied."""
    cls = type(module)
    return (
        cls.__module__.startswith("torch.nn.modules.")
        and not children_of(module)
        and cls.__setstate__ is nn.Module.__setstate__
        and not hasattr(cls, "__deepcopy__")
    )


def _clone_plain(module: nn.Module, memo: dict[int, Any]) -> None:
    """Copy a module of one of torch's own classes, whose attributes are plain values or dicts of tensors, into memo.

    It skips deepcopy's walk over some twenty attributes, which costs more than tracing the module.
    """
    copied = memo[id(module)] = object.__new__(type(module))
    attributes = copied.__dict__
    for name, value in module.__dict__.items():
        if isinstance(value, (int, float, str, tuple, type(None))):
            attributes[name] = value
        elif name in (PARAMETERS, BUFFERS):
            attributes[name] = type(value)((key, copy.deepcopy(entry, memo)) for key, entry in value.items())
        elif isinstance(value, (dict, set)) and not value:
            attributes[name] = type(value)()
        else:
            attributes[name] = copy.deepcopy(value, memo)


def _carry_hooks(tensor: Tensor, copied: Tensor) -> None:
    """Register the gradient hooks of a parameter with its copy, which deepcopy forgets."""
    for hook in gradient_hooks_of(tensor):
        copied.register_hook(hook)  # type: ignore[no-untyped-call]
    for hook in accumulation_hooks_of(tensor):
        copied.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]


def _require_own_forward(model: nn.Module, module: nn.Module, instead: str) -> None:
    """Refuse a forward that a module was given as a function over another one: a copy would run the model's own."""
    forward = module.__dict__.get("forward")
    for cell in getattr(forward, "__closure__", None) or ():
        held = getattr(cell.cell_contents, "__self__", cell.cell_contents)
        if isinstance(held, (nn.Module, Tensor)):
            reason = f"the forward of a {type(module).__name__} is a function over its modules"
            raise _not_copied(model, reason, instead)


def _not_copied(model: nn.Module, reason: str, instead: str) -> CopyError:
    return CopyError(f"{type(model).__name__!r} cannot be copied: {reason}; {instead}")
