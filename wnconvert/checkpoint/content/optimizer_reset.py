"""An optimizer without state for the parameters that a conversion leaves, as programs need it that index its groups.

A program that resumes reads ``file["optimizer"]["param_groups"]``, or gives the dict to the `load_state_dict` of a new
optimizer, which takes it only if every group has as many parameters as its own. What such a dict says of parameters is
how many there are in each group and which shapes their state has; since PyTorch 2.6 it may name them. So how many there
are after a conversion is known where the names are there, or where shapes leave one answer only.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from wnconvert.checkpoint.content.tree import StateDict, storage_key

Shape: TypeAlias = tuple[int, ...]
#: what torch's normalization layers keep besides parameters
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Change(NamedTuple):
    """The parameters of one weight: their names before and after a conversion, and names of buffers that it had."""

    before: tuple[Hashable, ...]
    after: tuple[Hashable, ...]
    buffers: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Parameters:
    """What the parameters of an optimizer may be.

    Attributes:
        tensors: those of state dicts before the conversion, by name.
        changes: which of them are replaced by which.
    """

    tensors: Mapping[Any, Tensor]
    changes: Sequence[Change]

    @classmethod
    def joined(cls, several: Sequence[Parameters]) -> Parameters:
        """Return those of several state dicts, which may have the same names."""
        tensors = {(place, name): tensor for place, own in enumerate(several) for name, tensor in own.tensors.items()}
        changes = [
            Change(*(tuple((place, name) for name in names) for names in change))
            for place, own in enumerate(several)
            for change in own.changes
        ]
        return cls(tensors, changes)

    def shapes(self) -> Counter[Shape]:
        """Return the shapes of what may be a parameter, tied ones once."""
        buffers = {name for change in self.changes for name in change.buffers}
        own = {
            storage_key(tensor): tuple(tensor.shape)
            for name, tensor in self.tensors.items()
            if name not in buffers and tensor.is_floating_point() and not _leaf(name).endswith(_STATISTICS)
        }
        return Counter(own.values())


def _leaf(name: object) -> str:
    return str(name[-1] if isinstance(name, tuple) else name)


def state_shapes(entries: Mapping[Any, Any]) -> list[list[Shape | None]]:
    """Return the shape of each parameter, by group; None where its state does not show it."""
    return [[_shape(entries["state"].get(name)) for name in group["params"]] for group in entries["param_groups"]]


def _shape(state: object) -> Shape | None:
    """Return the one shape of the tensors in the state of a parameter; numbers, as counts of steps are, have none."""
    held = state.values() if isinstance(state, dict) else ()
    shapes = {tuple(value.shape) for value in held if isinstance(value, Tensor) and value.ndim}
    return next(iter(shapes)) if len(shapes) == 1 else None


def emptied(optimizer: StateDict, candidates: Iterable[Parameters]) -> dict[Any, Any] | None:
    """Return the state dict of an optimizer without state, its groups as long as they must be after a conversion.

    The parts of a weight are in the group of that weight, and a weight is in the group of its parts.

    Args:
        optimizer: what the file holds.
        candidates: what its parameters may be; where several are possible, they must agree.

    Returns:
        The dict; or None where the lengths cannot be known.
    """
    entries = optimizer.entries
    answers = [_groups(entries, each) for each in candidates]
    if not answers or answers[0] is None or any(answer != answers[0] for answer in answers):
        return None
    first, groups = 0, []
    for group, new in zip(entries["param_groups"], answers[0], strict=True):
        kept = {key: value for key, value in group.items() if key != "param_names" or new.names}
        named = "param_names" if "param_names" in kept else "params"
        places = {"params": list(range(first, first + new.length))}
        groups.append({**kept, **places, **({named: list(new.names)} if new.names else {})})
        first += new.length
    fresh = copy.copy(entries)
    fresh.update(state={}, param_groups=groups)
    return fresh


class _Group(NamedTuple):
    """One group of parameters after a conversion: how many, and their names if they have some."""

    length: int
    names: tuple[str, ...] = ()


def _groups(entries: Mapping[Any, Any], parameters: Parameters) -> list[_Group] | None:
    """Return the groups after a conversion, or None where they cannot be known."""
    groups = entries["param_groups"]
    names = [group.get("param_names", group["params"]) for group in groups]
    if all(name in parameters.tensors for group in names for name in group) and any(names):
        replaced = {name: change for change in parameters.changes for name in change.before}
        new = [tuple(_renamed(group, replaced)) for group in names]
        torn = any(0 < _held(change, names) < len(change.before) for change in parameters.changes)
        return None if torn else [_Group(len(group), group) for group in new]
    if any(isinstance(name, str) for group in groups for name in group["params"]):
        return None  # names that are not those of the file
    lengths = _lengths(state_shapes(entries), parameters)
    return None if lengths is None else [_Group(length) for length in lengths]


def _renamed(names: Sequence[Hashable], replaced: Mapping[Hashable, Change]) -> Iterator[Any]:
    for name in names:
        change = replaced.get(name)
        if change is None:
            yield name
        elif name == change.before[0]:
            yield from change.after


def _held(change: Change, names: Sequence[Sequence[Hashable]]) -> int:
    """Return how many of the old parameters of a weight are in that group which has most of them."""
    return max(sum(name in group for name in change.before) for group in names)


def _lengths(groups: Sequence[Sequence[Shape | None]], parameters: Parameters) -> list[int] | None:
    """Return how many parameters each group has after a conversion, or None where shapes do not show it."""
    every, lengths = parameters.shapes(), list(map(len, groups))
    kinds: Counter[_Kind] = Counter(
        _Kind(tuple(tuple(parameters.tensors[name].shape) for name in change.before), len(change.after))
        for change in parameters.changes
    )
    if len(groups) == 1 and lengths[0] == every.total():  # it has them all
        return [lengths[0] + sum(count * (kind.new - len(kind.old)) for kind, count in kinds.items())]
    known = [Counter(shape for shape in group if shape is not None) for group in groups]
    wanted = Counter(shape for kind in kinds.elements() for shape in kind.old)
    shares = {shape: _share(count, [group[shape] for group in known], every[shape]) for shape, count in wanted.items()}
    found: list[Counter[Shape]] = [Counter() for _ in groups]
    for kind, count in kinds.items():
        where = _where(kind, count, shares, wanted) if kind.old else [count] if len(groups) == 1 else None
        if where is None:
            return None
        for index, number in enumerate(where):
            lengths[index] += number * (kind.new - len(kind.old))
            found[index].update({shape: number * kind.old.count(shape) for shape in set(kind.old)})
    # a weight whose parts are in different groups: nobody knows where it would be
    together = all([group[shape] for group in found] == share for shape, share in shares.items())
    return lengths if together else None


class _Kind(NamedTuple):
    """Weights alike: the shapes of the old parameters of each, and how many new ones it has."""

    old: tuple[Shape, ...]
    new: int


def _share(count: int, held: list[int], total: int) -> list[int] | None:
    """Return how many of some tensors of one shape are in each group, or None where that is open.

    Args:
        count: how many of them are replaced.
        held: how many of that shape each group has.
        total: how many there are.
    """
    if sum(held) != total:
        return None  # some are in no group, or their state does not show their shape
    if held.count(0) == len(held) - 1:
        return [count if each else 0 for each in held]
    return held if count == total else None


def _where(
    kind: _Kind, count: int, shares: Mapping[Shape, list[int] | None], wanted: Mapping[Shape, int]
) -> list[int] | None:
    """Return how many weights of a kind are in each group, told by those of their shapes that no other kind has."""
    for shape in sorted(set(kind.old), key=prod, reverse=True):
        share, each = shares[shape], kind.old.count(shape)
        if share is None:
            return None
        if share.count(0) == len(share) - 1:
            return [count if number else 0 for number in share]
        if wanted[shape] == count * each and not any(number % each for number in share):
            return [number // each for number in share]
    return None
