"""Giving a model its tensors, module by module where there are many.

`torch.nn.Module.load_state_dict` looks through all entries once for each child, which is quadratic in the children of
one module. So modules of thousands of children are loaded one by one, where nothing can tell the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn

from wnconvert.torch_private import LOAD, STATE_DICT_HOOKS, buffers_of, children_of, parameters_of

#: children of one module from which on they are loaded one by one; torch's own way is the one that all know
MANY = 256


def fill(model: nn.Module, entries: Mapping[str, Any]) -> None:
    """Load a state dict strictly.

    Raises:
        RuntimeError: something is missing, left over or of another shape.
    """
    own = _is_overridden(model, "load_state_dict")
    if not own and any(len(children_of(module)) >= MANY for module in model.modules()):
        _fill_below(model, entries)
    else:
        model.load_state_dict(entries, strict=True)


def _fill_below(module: nn.Module, entries: Mapping[str, Any]) -> None:
    children = {name: child for name, child in children_of(module).items() if child is not None}
    below: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in entries.items():
        name, _, rest = key.partition(".")
        below[name][rest] = value
    if not (_only_holds(module) and below.keys() <= children.keys()):
        nn.Module.load_state_dict(module, entries, strict=True)  # what a class has instead, torch asks of the root only
        return
    for name, child in children.items():
        _fill_below(child, below[name])


def _only_holds(module: nn.Module) -> bool:
    """Return whether all that a module does with a state dict is to give each child its own."""
    hooks = (getattr(module, name, None) for name in STATE_DICT_HOOKS)
    own = (*parameters_of(module).values(), *buffers_of(module).values())
    return not _is_overridden(module, LOAD) and not any(hooks) and all(tensor is None for tensor in own)


def _is_overridden(module: nn.Module, method: str) -> bool:
    return getattr(getattr(module, method), "__func__", None) is not getattr(nn.Module, method)
