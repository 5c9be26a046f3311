"""What a pickle may call and change: data made of data, each call in time linear in its arguments.

`torch.load` with ``weights_only`` lets pickles call more, and with anything: codecs that are quadratic, classes that
allocate what they are told to, functions that call others.
"""

from __future__ import annotations

import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache, partial
from pathlib import PosixPath
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from wnconvert.checkpoint.pickles.inert import Unknown
from wnconvert.checkpoint.pickles.safety import harmless
from wnconvert.checkpoint.storage.limits import DIMS, NAME, Budget
from wnconvert.errors import UnsafePickleError
from wnconvert.torch_private import (
    GET_LAYOUT,
    PARAMETER_WITH_STATE,
    REBUILD_TENSOR,
    REBUILDERS,
    SUBCLASS,
    UNUSUAL,
    allowed_globals,
    rebuilt_tensor,
)

Rule: TypeAlias = Callable[[tuple[Any, ...]], bool]

#: no tensor is made of more arguments.
MOST_PARTS = 8
LATIN = ("latin1", "latin-1")
MAPPINGS = (dict, OrderedDict, Counter)
#: what costs as much as it has bytes, and what as much as it has elements.
TEXTS, CONTAINERS = (str, bytes, bytearray), (tuple, list, set, frozenset, *MAPPINGS)


@cache
def known() -> dict[str, Any]:
    """Return what is looked up, by dotted name."""
    ours = [
        each if isinstance(each, tuple) else (each, f"{each.__module__}.{each.__qualname__}") for each in harmless()
    ]
    found = {**allowed_globals(), REBUILD_TENSOR: rebuilt_tensor, **{name: value for value, name in ours}}
    return {name: value for name, value in found.items() if name not in UNUSUAL}


@cache
def known_ids() -> frozenset[int]:
    """Return the identities of what is looked up."""
    return frozenset(map(id, known().values()))


def is_fine(function: Any, args: tuple[Any, ...]) -> bool:
    """Return whether a known function or class may be called with ``args``: as those who pickle do it."""
    rule = _rules().get(id(function))
    return rule is not None and rule(args)


def charge(budget: Budget, args: tuple[Any, ...]) -> None:
    """Take from the budget what a call with ``args`` costs at most, and what it adds to memory.

    Raises:
        CheckpointError: the file is too small for that.
    """
    budget.step(len(args))
    for arg in args:
        _charge(budget, arg)
        if type(arg) is tuple:
            for each in arg:
                _charge(budget, each)


def _charge(budget: Budget, arg: Any) -> None:
    kind = type(arg)
    if kind in TEXTS:
        budget.copy(len(arg))
    elif kind in CONTAINERS:
        budget.step(len(arg))
    elif kind in (Tensor, nn.Parameter) or kind is np.ndarray:
        budget.copy(_claimed(arg))


def _claimed(arg: Any) -> int:
    if isinstance(arg, np.ndarray):
        return arg.nbytes
    if arg.layout is torch.strided and not arg.is_meta:
        return arg.numel() * arg.element_size()
    return 0


@cache
def _rules() -> dict[int, Rule]:
    """Return what arguments each function and class is called with, by identity."""
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    rules: dict[Any, Rule] = {
        OrderedDict: lambda args: not args or (len(args) == 1 and type(args[0]) in (list, tuple, *MAPPINGS)),
        Counter: lambda args: not args or (len(args) == 1 and type(args[0]) in MAPPINGS),
        set: lambda args: not args or (len(args) == 1 and type(args[0]) in (list, tuple)),
        known()["_codecs.encode"]: _is_latin,
        bytearray: lambda args: not args or _is_latin(args) or (len(args) == 1 and type(args[0]) in TEXTS[1:]),
        complex: lambda args: len(args) <= 2 and _all(args, float, int),
        Namespace: _none,
        PosixPath: lambda args: _all(args, str),
        torch.Size: lambda args: len(args) == 1 and type(args[0]) in (list, tuple) and _all(args[0], int),
        torch.device: lambda args: len(args) in (1, 2) and type(args[0]) is str and len(args[0]) <= NAME,
        known()[GET_LAYOUT]: lambda args: len(args) == 1 and type(args[0]) is str,
        nn.Parameter: lambda args: 1 <= len(args) <= 2 and isinstance(args[0], Tensor) and _all(args[1:], bool),
        np.dtype: lambda args: 1 <= len(args) <= 3 and type(args[0]) is str and len(args[0]) <= 16,
        scalar: lambda args: len(args) == 2 and isinstance(args[0], np.dtype) and type(args[1]) is bytes,
        reconstruct: lambda args: len(args) == 3 and args[0] is np.ndarray and args[1] == (0,),
    }
    for name, each in known().items():
        if each is Tensor or (name.startswith("torch.") and name.endswith("Tensor") and isinstance(each, type)):
            rules[each] = _none  # old pickles make one of these, and give it its state
    for name, hooks in REBUILDERS.items():
        rules[known()[name]] = partial(_are_parts, hooks)
    rules[known()[PARAMETER_WITH_STATE]] = lambda args: len(args) == 4 and rules[nn.Parameter](args[:2]) and not args[2]
    rules[known()[SUBCLASS]] = lambda args: len(args) == 4 and args[1] in (Tensor, nn.Parameter)
    return {id(each): rule for each, rule in rules.items()}


def _none(args: tuple[Any, ...]) -> bool:
    return not args


def _all(args: Any, *kinds: type) -> bool:
    return all(type(each) in kinds for each in args)


def _is_latin(args: tuple[Any, ...]) -> bool:
    """Return whether a text is the bytes that it stands for; many other codecs take quadratic time."""
    return len(args) == 2 and type(args[0]) is str and args[1] in LATIN


def _are_parts(hooks: int | None, args: tuple[Any, ...]) -> bool:
    """Return whether a tensor is made of these: it has few dims, and no hooks, which are never saved.

    Args:
        hooks: the place of the hooks among the arguments, if there is one.
        args: the arguments.
    """
    if hooks is not None and len(args) > hooks and args[hooks]:
        return False
    few = len(args) <= MOST_PARTS
    return few and not any(isinstance(each, (tuple, list)) and len(each) > DIMS for each in args)


def find(module: Any, name: Any) -> Any:
    """Return what is known to be harmless, or what stands for a name."""
    if type(module) is not str or type(name) is not str or len(module) + len(name) > NAME:
        raise misused(name)
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    full = f"{module}.{name}"
    return known()[full] if full in known() else Unknown(full)


def build(target: Any, state: Any) -> None:
    """Give an object its state."""
    if isinstance(target, Unknown):
        target.state = state
    elif type(target) in (OrderedDict, Namespace):
        with_attributes(target, state)
    elif type(target) is np.ndarray and any(isinstance(each, Unknown) for each in state):
        raise UnsafePickleError("it has an array of objects or records, which NumPy builds without looking")
    elif type(target) in (Tensor, nn.Parameter, np.ndarray):
        target.__setstate__(state)
    elif not isinstance(target, np.dtype) or not is_native(*state):
        raise misused(target)


def with_attributes(target: Any, state: Any) -> Any:
    """Return an object with attributes of its own, of which none hides one of its class."""
    if not state or isinstance(target, Unknown):
        return target
    if type(state) is tuple:
        state, slots = state
        if slots:
            raise misused(target)
    if type(state) not in MAPPINGS or any(hasattr(type(target), name) for name in state):
        raise misused(target)
    vars(target).update(state)
    return target


def is_native(version: Any, order: Any, *others: Any) -> bool:
    """Return whether the state of a dtype adds nothing to it; any other can make NumPy crash on an array of it."""
    native = order in ("|", "=", "<" if sys.byteorder == "little" else ">")
    return native and len(others) == 6 and others[:3] == (None, None, None)


def misused(value: Any) -> pickle.UnpicklingError:
    """Return the error that says that a pickle does something absurd."""
    return pickle.UnpicklingError(f"it does with a {type(value).__name__} what no checkpoint does")
