"""The object tree of a checkpoint: the state dicts in it, and comparing two trees bit by bit."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Container, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import DeferredTensor
from wnconvert.errors import CheckpointError
from wnconvert.fitness import Overlaps

#: deeper trees are not read: nobody nests like that, and Python's recursion is bounded.
DEEPEST = 100


@dataclass(frozen=True)
class StateDict:
    """A dict in a checkpoint: a state dict, if there are tensors in it.

    Attributes:
        path: the keys that lead to it from the root of the checkpoint.
        entries: the dict itself, with whatever else it holds.
    """

    path: tuple[Hashable, ...]
    entries: dict[Any, Any]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the entries that a name leads to."""
        return {key: value for key, value in self.entries.items() if isinstance(key, str) and isinstance(value, Tensor)}

    def under(self, prefix: str) -> Iterator[str]:
        """Yield the names of the tensors that begin with ``prefix``, without looking at the others."""
        place = bisect_left(self._sorted, prefix)
        while place < len(self._sorted) and self._sorted[place].startswith(prefix):
            yield self._sorted[place]
            place += 1

    @cached_property
    def overlaps(self) -> Overlaps:
        """Which of the tensors share memory with others, without being tied."""
        return Overlaps(self.tensors.items(), storage_key)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.tensors)

    def fqn(self, name: str) -> str:
        """Return ``name`` with the path in front of it."""
        if not self.path:
            return name
        return ".".join([*map(str, self.path), name])

    def __str__(self) -> str:
        return ".".join(map(str, self.path)) or "the root"


def walk(content: Any) -> Iterator[StateDict]:
    """Yield every dict in ``content`` that nested dicts, lists and tuples lead to, each once and in order.

    Empty ones are left out, but for the root.

    Raises:
        CheckpointError: the tree is nested absurdly deep, or a dict in it hides its methods.
    """
    seen: set[int] = set()

    def visit(node: Any, path: tuple[Hashable, ...]) -> Iterator[StateDict]:
        if not _is_inner(node) or id(node) in seen:
            return
        if len(path) > DEEPEST:
            raise CheckpointError(f"the content is nested more than {DEEPEST} dicts deep")
        seen.add(id(node))
        if isinstance(node, dict) and not vars(dict).keys().isdisjoint(getattr(node, "__dict__", ())):
            raise CheckpointError(f"{StateDict(path, node)} has attributes with the names of a dict's methods")
        if isinstance(node, dict):
            yield StateDict(path, node)
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if _is_inner(value) and (value or type(value) not in (dict, list, tuple)):
                yield from visit(value, (*path, key))

    return visit(content, ())


def find_state_dicts(content: Any) -> list[StateDict]:
    """Return every dict with tensors in it, see `walk`, save for what belongs to the state of an optimizer."""
    every = list(walk(content))
    optimizers = {found.path for found in every if is_optimizer(found.entries) and found.path}

    def belongs(path: tuple[Hashable, ...]) -> bool:
        return bool(optimizers) and any(path[:length] in optimizers for length in range(1, len(path) + 1))

    return [found for found in every if found.tensors and not belongs(found.path)]


def is_optimizer(entries: Mapping[Any, Any]) -> bool:
    """Return whether a dict is the state dict of one of torch's optimizers."""
    state, groups = entries.get("state"), entries.get("param_groups")
    return (
        isinstance(state, dict)
        and isinstance(groups, list)
        and all(isinstance(group, dict) and "params" in group for group in groups)
    )


def rebuild(content: Any, replacements: Mapping[int, Mapping[Any, Any]], dropped: Container[int] = frozenset()) -> Any:
    """Return ``content`` with the entries of some dicts replaced; its dicts are copied, all else is shared with it.

    Args:
        content: the tree.
        replacements: the new entries of a dict, in order, by the ``id`` of the dict.
        dropped: the ``id`` of each dict that is left out.
    """
    copies: dict[int, Any] = {}

    def visit(node: Any) -> Any:
        if not _is_inner(node):
            return node
        if id(node) in copies:
            return copies[id(node)]
        if isinstance(node, dict):
            copies[id(node)] = fresh = copy.copy(node)  # keeps the type, and `_metadata` of a state dict
            fresh.clear()
            entries = replacements.get(id(node), node)
            fresh.update((key, visit(value)) for key, value in entries.items() if id(value) not in dropped)
            return fresh
        several: list[Any] = []
        copies[id(node)] = several
        several.extend(visit(value) for value in node if id(value) not in dropped)
        if len(several) == len(node) and all(a is b for a, b in zip(several, node, strict=True)):
            copies[id(node)] = node
        elif isinstance(node, tuple):
            copies[id(node)] = tuple(several)
        return copies[id(node)]

    return visit(content)


def substituted(entries: Mapping[Any, Any], new: Mapping[Any, Mapping[Any, Any]]) -> dict[Any, Any]:
    """Return entries with some replaced, each by what stands in its place: nothing, one entry, or several.

    Args:
        entries: all of them, in order.
        new: what takes the place of an entry, by its key.
    """
    made: dict[Any, Any] = {}
    for key, value in entries.items():
        made.update(new.get(key, {key: value}))
    return made


def _is_inner(node: Any) -> bool:
    return isinstance(node, dict) or type(node) in (list, tuple)


def storage_key(tensor: Tensor) -> Hashable:
    """Return what two tensors have in common exactly if they are tied: the same elements of the same storage."""
    if isinstance(tensor, DeferredTensor):
        return tensor.recipe
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.dtype, tuple(tensor.shape), tensor.stride())
