"""The state of optimizers in a checkpoint: it belongs to parameters by their position, and conversions change those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from torch import Tensor

from wnconvert.checkpoint.content.tree import StateDict, is_optimizer, walk


def find_optimizers(content: Any) -> list[StateDict]:
    """Return the state dicts of torch's optimizers in a checkpoint, except for the root."""
    return [found for found in walk(content) if found.path and is_optimizer(found.entries)]


def stale(content: Any, touched: Sequence[StateDict], others: Sequence[StateDict]) -> list[StateDict]:
    """Return the optimizers whose state does not fit any more.

    Which optimizer is for which state dict, no file says. One is valid only if all the shapes in its state occur in a
    state dict that was left alone, and in none that was converted. In a list of optimizers, which are told by their
    places, one that is stale takes the others with it.

    Args:
        content: the checkpoint as it was.
        touched: the state dicts in which something was converted.
        others: those that were left alone.
    """
    found = find_optimizers(content)
    old = {id(each.entries) for each in found if not _is_for(each, others) or _is_for(each, touched)}
    places: dict[Hashable, set[int]] = {}
    for each in found:
        if isinstance(each.path[-1], int):
            places.setdefault(each.path[:-1], set()).add(id(each.entries))
    for together in places.values():
        if together & old:
            old |= together
    return [each for each in found if id(each.entries) in old]


def missing(before: Any, after: Any) -> list[StateDict]:
    """Return the optimizers of ``before`` that are not in ``after``."""
    kept = {found.path for found in find_optimizers(after)}
    return [found for found in find_optimizers(before) if found.path not in kept]


def _is_for(optimizer: StateDict, candidates: Iterable[StateDict]) -> bool:
    """Return whether all the shapes in the state of an optimizer occur in one of some state dicts."""
    states = (state for state in optimizer.entries["state"].values() if isinstance(state, dict))
    # the state of one parameter: several tensors of its shape
    shapes = Counter(
        shape
        for state in states
        for shape in {tuple(value.shape) for value in state.values() if isinstance(value, Tensor) and value.ndim}
    )
    return any(shapes <= Counter(tuple(t.shape) for t in each.tensors.values()) for each in candidates)
