"""The conversions on a whole checkpoint: every state dict in it, weight by weight; all else stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content import optimizers
from wnconvert.checkpoint.content.keys import part_groups, plain_weights
from wnconvert.checkpoint.content.optimizer_reset import Parameters
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts, rebuild
from wnconvert.checkpoint.conversions.loaders import LoadsInto, loads_into
from wnconvert.checkpoint.format import FORMATS, Checkpoint
from wnconvert.checkpoint.layout import find_groups, remark_on
from wnconvert.checkpoint.pickles.inert import require_known
from wnconvert.checkpoint.weights.outcome import Outcome
from wnconvert.device import CPU, Device
from wnconvert.errors import CheckpointError, NothingToConvertError, OptionError
from wnconvert.report import Report, Skipped, StaleOptimizer, counted, summary as summary
from wnconvert.selection import WeightedOp


class Conversion(NamedTuple):
    """A converted checkpoint, and what was done."""

    checkpoint: Checkpoint
    report: Report

    @property
    def loads_into(self) -> LoadsInto:
        """What loads the file now: one line, and code."""
        return loads_into(self.checkpoint, self.report)


def fitting(found: list[StateDict], ops: Sequence[WeightedOp] | None) -> tuple[list[StateDict], list[str]]:
    """Return the state dicts that hold the weights of ``ops`` (all of them without ops), and notes on the others."""
    misfits = {id(state_dict): _misfit(state_dict, ops or ()) for state_dict in found}
    if found and all(misfits.values()):
        raise CheckpointError(f"no state dict in the file fits the model: {misfits[id(found[0])]}")
    fitting = [state_dict for state_dict in found if not misfits[id(state_dict)]]
    others = [state_dict for state_dict in found if misfits[id(state_dict)] and plain_weights(state_dict.tensors)]
    return fitting, [f"left as it is, for it does not fit the model: {state_dict}" for state_dict in others]


def _misfit(state_dict: StateDict, ops: Sequence[WeightedOp]) -> str | None:
    wanted = {op.fqn for op in ops}
    names = {group.stem for group in part_groups(state_dict.tensors, wanted)} | state_dict.tensors.keys()
    if wanted - names:
        names |= {group.stem for group in find_groups(state_dict.tensors, named=wanted.__contains__)}
    return next((f"{state_dict} has no {op.fqn!r}" for op in ops if op.fqn not in names), None)


def tree_of(checkpoint: Checkpoint) -> Any:
    """Return the content of a checkpoint that is no whole model.

    Raises:
        CheckpointError: it is one.
    """
    if isinstance(checkpoint.content, nn.Module):
        raise CheckpointError(
            "the file holds a whole model, not a state dict; convert the model itself, or read it with "
            "modules='state_dict'"
        )
    return checkpoint.content


def chosen_state_dicts(found: list[StateDict], within: Sequence[str]) -> list[StateDict]:
    """Return the state dicts at the given places, or below.

    Raises:
        OptionError: there is none at some place.
    """
    for place in within:
        if not any(is_within(each, place) for each in found):
            known = ", ".join(str(each) for each in found if plain_weights(each.tensors) or part_groups(each.tensors))
            raise OptionError(f"there is no state dict at {place!r} (there are: {known or 'none'})")
    return [each for each in found if not within or any(is_within(each, place) for place in within)]


def is_within(state_dict: StateDict, place: str) -> bool:
    """Return whether a state dict is at a dotted path, or below."""
    return f"{state_dict.fqn('')}".startswith(f"{place}.")


#: what is said where no key is that of a weight
_LACKING = (
    "no key looks like a plain weight: floating, of two or more dims, with a name that ends in 'weight' (--model tells "
    "of others)"
)


def conversion_of(
    checkpoint: Checkpoint,
    outcomes: Mapping[int, Outcome],
    metadata: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    skipped: Sequence[Skipped] = (),
    *,
    optimizer: OptimizerState,
    verb: str = "convert",
    lacking: str = _LACKING,
    device: Device = CPU,
) -> Conversion:
    """Return a checkpoint in which state dicts are replaced, and the report. All conversions of files end here.

    Args:
        checkpoint: what is converted.
        outcomes: what became of each state dict, by the ``id`` of its entries.
        metadata: those of the result; by default those of the checkpoint.
        notes: what the user should know besides.
        skipped: weights that are in none of the state dicts.
        optimizer: what becomes of the state of optimizers that is stale now.
        verb: what is done, where there was nothing to do.
        lacking: what is said where there was not even a weight to skip.
        device: where weights were computed.

    Raises:
        NothingToConvertError: no weight was converted.
        CheckpointError: optimizers are to be reset, and it cannot be known how.
    """
    said = [*device.notes, *notes, *checkpoint.notes]
    report = Report(
        tuple(entry for outcome in outcomes.values() for entry in outcome.converted),
        (*skipped, *(entry for outcome in outcomes.values() for entry in outcome.skipped)),
        tuple(dict.fromkeys([*said, *(note for outcome in outcomes.values() for note in outcome.notes)])),
    )
    if not report.modified:
        require_known(checkpoint.content)
        done = len(manifest.read_folded(checkpoint.metadata))
        already = f"; the file records {counted(done)} as folded already" if done else ""
        reason = summary(report.skipped) or _why_nothing(outcomes) or lacking
        raise NothingToConvertError(f"nothing to {verb}: {reason}{already}", report=report)
    became = _optimizers(checkpoint, outcomes, optimizer)
    files = FORMATS.get(checkpoint.format)().optimizers(checkpoint)
    stale = (*(each.report for each in became), *(StaleOptimizer(name, "dropped") for name in files))
    new = {key: outcome.entries for key, outcome in outcomes.items()}
    new |= {id(each.old): each.new for each in became if each.new is not None}
    content = rebuild(checkpoint.content, new, {id(each.old) for each in became if each.new is None})
    require_known(content)
    metadata = checkpoint.metadata if metadata is None else metadata
    return Conversion(
        replace(checkpoint, content=content, metadata=metadata, notes=()), replace(report, optimizers=stale)
    )


def _optimizers(
    checkpoint: Checkpoint, outcomes: Mapping[int, Outcome], wanted: OptimizerState
) -> list[optimizers.Became]:
    """Return what becomes of the optimizers that do not fit any more."""
    found = find_state_dicts(checkpoint.content)
    changed = {key for key, outcome in outcomes.items() if outcome.converted and not outcome.same_parameters}
    touched = {id(each.entries): each for each in found if id(each.entries) in changed}
    others = [each for each in found if id(each.entries) not in changed]
    known = [Parameters(each.tensors, outcomes[key].parameters) for key, each in touched.items()]
    known = known if all(each.changes for each in known) else []
    old = optimizers.stale(checkpoint.content, list(touched.values()), others) if touched else []
    return optimizers.treated(checkpoint.content, old, known, wanted)


def _why_nothing(outcomes: Mapping[int, Outcome]) -> str | None:
    if not outcomes:
        return "the file holds no dict of tensors"
    said = next(filter(None, (remark_on(outcome.entries) for outcome in outcomes.values())), None)
    return said and f"the file {said}"
