"""The state of optimizers in a checkpoint: it belongs to parameters by their position, and conversions change those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from wnconvert.checkpoint.content.optimizer_reset import Parameters, emptied, state_shapes
from wnconvert.checkpoint.content.tree import StateDict, is_optimizer, walk
from wnconvert.errors import CheckpointError
from wnconvert.report import StaleOptimizer

#: what becomes of state that a conversion makes stale: left out, emptied for the new parameters, or kept as it is
OptimizerState: TypeAlias = Literal["drop", "reset", "keep"]


def find_optimizers(content: Any) -> list[StateDict]:
    """Return the state dicts of torch's optimizers in a checkpoint, except for the root."""
    return [found for found in walk(content) if found.path and is_optimizer(found.entries)]


def stale(content: Any, touched: Sequence[StateDict], others: Sequence[StateDict]) -> list[StateDict]:
    """Return the optimizers whose state does not fit any more.

    Which optimizer is for which state dicts, no file says. One may be for those that have, together, as many tensors of
    each shape as its state has parameters; it is stale if it may be for what was converted. One for several models is
    stale if it needs a converted one. What fits nothing is of a model that is not in the file.

    Args:
        content: the checkpoint as it was.
        touched: the state dicts in which something was converted.
        others: those that were left alone.
    """
    return [
        each
        for each in find_optimizers(content)
        if _may_be_for(each, touched) or (_may_be_for(each, (*touched, *others)) and not _may_be_for(each, others))
    ]


class Became(NamedTuple):
    """What becomes of an optimizer: its new entries, or None where it is left out."""

    path: str
    old: dict[Any, Any]
    new: dict[Any, Any] | None

    @property
    def report(self) -> StaleOptimizer:
        """The same, to be told."""
        if self.new is None:
            return StaleOptimizer(self.path, "dropped")
        return StaleOptimizer(self.path, "kept" if self.new is self.old else "reset")


def treated(
    content: Any, old: Sequence[StateDict], touched: Sequence[Parameters], wanted: OptimizerState
) -> list[Became]:
    """Return what becomes of optimizers that are stale.

    In a list, which tells optimizers by their places, none can be left out while another stays: it is reset instead,
    or, where that cannot be, they all are left out.

    Args:
        content: the checkpoint as it was.
        old: the optimizers.
        touched: the parameters of each state dict in which something was converted, and what replaces them.
        wanted: what is to become of them.

    Raises:
        CheckpointError: they are to be reset, and how many parameters the groups of one have now cannot be known.
    """
    if wanted == "keep":
        return [Became(str(each), each.entries, each.entries) for each in old]
    paths = {each.path for each in old}
    valid = [each for each in find_optimizers(content) if each.path not in paths]
    became: dict[tuple[Hashable, ...], Became] = {}
    for each in old:
        beside = [other for other in valid if _in_one_list(each, other)]
        fresh = _without_state(each, touched) if wanted == "reset" or beside else None
        if fresh is None and wanted == "reset":
            raise CheckpointError(
                f"the optimizer state in {str(each)!r} cannot be reset: its groups do not show which of the weights "
                "are in them; leave it out (--optimizer drop), or keep it (--optimizer keep)"
            )
        became[each.path] = Became(str(each), each.entries, fresh)
        if beside and fresh is None:
            became |= {other.path: Became(str(other), other.entries, None) for other in beside}
    torn = {path[:-1] for path, each in became.items() if each.new is None and isinstance(path[-1], int)}
    return [each._replace(new=None) if path[:-1] in torn else each for path, each in became.items()]


def _in_one_list(one: StateDict, other: StateDict) -> bool:
    return one.path[:-1] == other.path[:-1] and isinstance(one.path[-1], int)


def _without_state(optimizer: StateDict, touched: Sequence[Parameters]) -> dict[Any, Any] | None:
    if not touched:
        return None
    alone = [own for own in touched if _fits(optimizer, own.shapes(), len(own.tensors))]
    return emptied(optimizer, alone or [Parameters.joined(touched)])


def replacements(before: Any, after: Any) -> tuple[dict[int, dict[Any, Any]], set[int]]:
    """Return what `rebuild` needs to give ``before`` the optimizers of ``after``: new entries, and what is left out."""
    now = {found.path: found.entries for found in find_optimizers(after)}
    old = find_optimizers(before)
    new = {id(each.entries): now[each.path] for each in old if each.path in now}
    return new, {id(each.entries) for each in old} - new.keys()


def _may_be_for(optimizer: StateDict, candidates: Sequence[StateDict]) -> bool:
    """Return whether the parameters of an optimizer may be those of some state dicts, as far as its state shows."""
    tensors = [tensor for each in candidates for tensor in each.tensors.values()]
    return _fits(optimizer, Counter(tuple(tensor.shape) for tensor in tensors), len(tensors))


def _fits(optimizer: StateDict, shapes: Mapping[tuple[int, ...], int], count: int) -> bool:
    groups = state_shapes(optimizer.entries)
    known = Counter(shape for group in groups for shape in group if shape is not None)
    return sum(map(len, groups)) <= count and known <= Counter(shapes)
