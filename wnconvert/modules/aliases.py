"""Attributes of modules that hold weights, alone or in lists, tuples and dicts, without registering them.

Once such a weight is composed, the attribute is a property that holds the composed weight in its place. A tensor that
another object refers to cannot be followed: where that is seen, the weight must stay as it is.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.graph.entries import Entry, join
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import CONTENTS, FLAT_WEIGHT_REFS, FLAT_WEIGHTS


@dataclass
class Reference:
    """Stands for a weight in an attribute.

    Attributes:
        module: the module that holds the weight.
        name: its name there.
    """

    module: nn.Module
    name: str

    def value(self) -> Any:
        """Return the weight."""
        return getattr(self.module, self.name)

    def references(self) -> Iterator[Reference]:
        """Yield itself."""
        yield self


@dataclass
class Container:
    """Stands for a list, tuple or dict that holds weights.

    Attributes:
        shell: a copy of it, with None in the places of weights; a tuple as a list.
        places: what stands there, by index or key.
        kind: the class of a tuple; None if it is no tuple.
    """

    shell: Any
    places: dict[Any, Alias]
    kind: Any = None

    def value(self) -> Any:
        """Return the container with the weights in it."""
        filled = self.shell.copy()
        for place, alias in self.places.items():
            filled[place] = alias.value()
        if self.kind is None:
            return filled
        return tuple(filled) if self.kind is tuple else self.kind._make(filled)

    def references(self) -> Iterator[Reference]:
        """Yield what stands for a weight, however deep."""
        for alias in self.places.values():
            yield from alias.references()


Alias = Reference | Container


class Holders:
    """The attributes of the modules of a model that hold tensors without registering them.

    Args:
        modules: all of its modules, by dotted name.
    """

    def __init__(self, modules: Sequence[tuple[str, nn.Module]]) -> None:
        self._modules = {id(module) for _, module in modules}
        #: attributes that can follow a weight: module, name of the attribute, and the tensors in it
        self._followed: list[tuple[nn.Module, str, set[int]]] = []
        #: where a tensor is held by something that cannot follow it, by id
        self._lost: dict[int, str] = {}
        #: tensors in attributes, with the names of these
        self.tensors: list[tuple[str, Tensor]] = []
        self._looked_into: set[int] = set()
        for path, module in modules:
            for name, value in module.__dict__.items():
                kind = type(value)
                if kind in _ATOMS or (kind in _DICTS and not value) or name in _INTERNAL:
                    continue
                if kind not in _SEQUENCES or not _ATOMS.issuperset(map(type, value)):
                    self._look(path, module, name, value)

    def obstacle(self, tensor: Tensor) -> Reason | None:
        """Return why ``tensor`` cannot be replaced by a composed weight, if it cannot."""
        where = self._lost.get(id(tensor))
        return Why.HELD_ELSEWHERE(holder=where) if where else None

    def aliases(self, weights: Mapping[int, Entry]) -> Iterator[tuple[nn.Module, str, Alias]]:
        """Yield modules, names of attributes, and what the attributes become, where they hold one of ``weights``.

        Args:
            weights: the first places where the weights are registered, by the id of the tensor.
        """
        for module, name, held in self._followed:
            if not held.isdisjoint(weights):
                alias = _alias(module.__dict__[name], weights)
                if alias is not None:
                    yield module, name, alias

    def _look(self, path: str, module: nn.Module, name: str, value: Any) -> None:
        held: set[int] = set()
        for tensor, lost in self._tensors(value, None, frozenset()):
            where = join(path, name)
            self.tensors.append((where, tensor))
            if lost is None:
                held.add(id(tensor))
            else:
                self._lost.setdefault(id(tensor), f"{lost} in {where!r}")
        if held:
            self._followed.append((module, name, held))

    def _tensors(self, value: Any, lost: str | None, above: frozenset[int]) -> Iterator[tuple[Tensor, str | None]]:
        """Yield the tensors in ``value``, each with what it is lost in, if it is: what we cannot fill anew."""
        if type(value) in _ATOMS or id(value) in above:
            return
        if isinstance(value, Tensor):
            yield value, lost
        else:
            inner, lost = self._inside(value, lost)
            for each in inner:
                yield from self._tensors(each, lost, above | {id(value)})

    def _inside(self, value: Any, lost: str | None) -> tuple[Iterable[Any], str | None]:
        """Return what ``value`` holds, and what that is lost in, if it is."""
        if isinstance(value, (list, tuple, dict, set, frozenset, deque)):
            if lost is None and not _can_be_filled(value):
                lost = f"a {type(value).__name__}"
            return value.values() if isinstance(value, dict) else value, lost
        if isinstance(value, nn.Module):
            outside = id(value) not in self._modules
            return (value.parameters(), f"an unregistered {type(value).__name__}") if outside else ((), None)
        # no deeper than one object: what that refers to may be anything
        if lost is not None or id(value) in self._looked_into:
            return (), None
        self._looked_into.add(id(value))
        return _attributes(value), f"a {type(value).__name__}"


def _attributes(value: Any) -> Iterable[Any]:
    """Return what an object refers to, as far as that can be seen."""
    if isinstance(value, FunctionType):
        return [*(value.__defaults__ or ()), *_closed_over(value)]
    if isinstance(value, partial):
        return [value.args, value.keywords]
    return [] if isinstance(value, (type, ModuleType)) else getattr(value, "__dict__", {}).values()


def _closed_over(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that has no value yet
            yield cell.cell_contents


def _alias(value: Any, weights: Mapping[int, Entry], above: frozenset[int] = frozenset()) -> Alias | None:
    """Return what stands for ``value``, or None if there is no weight in it, or none that is not above it."""
    if isinstance(value, Tensor):
        owner = weights.get(id(value))
        return None if owner is None else Reference(owner.module, owner.name)
    if not _can_be_filled(value) or id(value) in above:
        return None
    inside = above | {id(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {place: _alias(each, weights, inside) for place, each in items if type(each) not in _ATOMS}
    places = {place: alias for place, alias in found.items() if alias is not None}
    if not places:
        return None
    is_tuple = isinstance(value, tuple)
    shell = list(value) if is_tuple else value.copy()
    for place in places:
        shell[place] = None
    return Container(shell, places, type(value) if is_tuple else None)


def _can_be_filled(value: Any) -> bool:
    return type(value) in (list, tuple, dict, OrderedDict, defaultdict) or (
        isinstance(value, tuple) and hasattr(value, "_make")
    )


#: what holds no tensor
_ATOMS = frozenset(
    {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
    # what these refer to may be gone, and even to ask for their class would fail
    | {weakref.ProxyType, weakref.CallableProxyType}
)
#: most attributes of most modules are dicts without hooks, and sizes in several dims
_DICTS = frozenset({dict, OrderedDict})
_SEQUENCES = frozenset({list, tuple})
#: what is registered, and what recurrent modules keep of their weights, which is made anew
_INTERNAL = frozenset((*CONTENTS, FLAT_WEIGHTS, FLAT_WEIGHT_REFS))
