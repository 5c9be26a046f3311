"""What a file says about a model: which weights it normalizes, or did before they were folded, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.keys import part_groups
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.conversions.conversion import Conversion, summary
from wnconvert.checkpoint.conversions.treatment import Treatment, treat
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, DimHint, find_groups, remark_on
from wnconvert.checkpoint.manifest import Manifest, Records
from wnconvert.checkpoint.weights.outcome import DimOrDefault
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.scheme import SCHEMES
from wnconvert.selection import Selection, WeightedOp


def _like(
    reference: Mapping[str, Tensor],
    dim: DimHint,
    recorded: Manifest,
) -> tuple[list[Treatment], list[Skipped]]:
    """Return how to treat each weight that a reference normalizes in a way that can be applied, and the others.

    Args:
        reference: a state dict of the wanted form.
        dim: the kept dim, for what does not show it.
        recorded: what counts of the manifest of the reference, by names as in ``reference``.
    """
    treatments: list[Treatment] = []
    skipped: list[Skipped] = []
    groups = find_groups(reference, dim=dim)
    spelled = {group.stem: group.layout for group in groups}
    for stem, entry in recorded.items():
        treatments.append(Treatment(stem, entry.scheme, entry.kept, spelled.get(stem, "")))
    for group in groups:
        if group.stem in recorded:
            continue
        scheme = group.scheme or ""
        if scheme not in SCHEMES or not _repeatable(group.layout):
            what = group.problem or Why.LAYOUT(what=f"{group.scheme} in the layout {group.layout!r}")
            skipped.append(Skipped(group.stem, "", what))
        elif group.problem or group.kept is None:
            skipped.append(Skipped(group.stem, "", group.problem or Why.DIM(how="")))
        else:
            treatments.append(Treatment(group.stem, SCHEMES.get(scheme)(), group.kept, group.layout))
    return treatments, skipped


def _repeatable(layout: str) -> bool:
    """Return whether `apply` can write a layout; the empty name is that of wnconvert's own."""
    return not layout or (layout in LAYOUTS and LAYOUTS.get(layout).repeatable)


def apply_like(
    checkpoint: Checkpoint,
    reference: Checkpoint,
    *,
    dim: DimHint = "default",
    within: Sequence[str] = (),
    keep_optimizers: bool = False,
) -> Conversion:
    """Split the plain weights of a checkpoint exactly as those of a reference are: which, how, and in which layout.

    Weights are matched by name, without the path to their state dict and without what training wrappers add. Weights
    that the reference records as folded are split as they were. The report has every weight that the reference
    normalizes: converted, or skipped and why.

    Args:
        checkpoint: what to convert; it is not modified.
        reference: a checkpoint of the wanted form.
        dim: the kept dim, for what the reference does not show.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers, though it belongs to the parameters as they were.

    Raises:
        NothingToConvertError: no weight was converted.
    """
    for found in find_state_dicts(reference.content):
        if remark := remark_on(found.tensors, reference=True):
            raise CheckpointError(f"the reference {remark}")
    wanted, skipped = _wanted(reference, dim)
    if not wanted:
        raise NothingToConvertError(f"nothing to convert: {summary(skipped) or 'the reference normalizes no weight'}")
    return treat(
        checkpoint,
        wanted,
        lambda found, name: unwrapped(name),
        Why.ABSENT(known="the reference has it", lacking="this file has not"),
        within=within,
        keep_optimizers=keep_optimizers,
        notes=[f"of the reference: {note}" for note in reference.notes],
        skipped=skipped,
    )


def replayed_schemes(
    checkpoint: Checkpoint,
    *,
    dim: DimOrDefault = "default",
    selection: Selection | None = None,
    ops: Sequence[WeightedOp] | None = None,
) -> set[str]:
    """Return the names of the schemes that `apply` brings back, given these arguments and no scheme; see `replay`.

    None are brought back where weights or dims are chosen, or where nothing is recorded that can be split again.
    """
    if dim != "default" or (selection or Selection()) != Selection() or ops is not None:
        return set()
    wanted, _ = _treatments(manifest.read_folded(checkpoint.metadata))
    return {way.scheme.name for way in wanted.values()}


def replay(checkpoint: Checkpoint, *, within: Sequence[str] = (), keep_optimizers: bool = False) -> Conversion:
    """Split the weights that a checkpoint records as folded, and no others, exactly as they were.

    The record stays: it says again what was folded once the parts are composed.

    Args:
        checkpoint: what to convert; it is not modified.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers, though it belongs to the parameters as they were.

    Raises:
        NothingToConvertError: no weight was converted.
    """
    records = manifest.read_folded(checkpoint.metadata)
    places = tuple(f"{place}." for place in within)
    wanted, skipped = _treatments({fqn: was for fqn, was in records.items() if not places or fqn.startswith(places)})
    schemes = ", ".join(dict.fromkeys(way.scheme.name for way in wanted.values()))
    note = f"exactly what the file records as folded is split again ({schemes}); to choose otherwise, give --scheme"
    absent = Why.ABSENT(known="the file records it as folded", lacking="does not have it")
    try:
        return treat(
            checkpoint,
            wanted,
            StateDict.fqn,
            absent,
            within=within,
            keep_optimizers=keep_optimizers,
            notes=[note],
            skipped=skipped,
        )
    except NothingToConvertError as error:
        reason = (
            f"{error}; that is what the file records"
            if wanted
            else "nothing to convert: nothing folded is recorded there"
        )
        raise NothingToConvertError(f"{reason}, give --scheme to choose") from None


def _treatments(records: Records) -> tuple[dict[str, Treatment], list[Skipped]]:
    """Return how to split again what was folded, and what cannot be."""
    wanted: dict[str, Treatment] = {}
    skipped = []
    for name, was in records.items():
        if _repeatable(was.layout) and was.applied is not None:
            wanted[name] = Treatment(name, was.applied.scheme, was.applied.kept, was.layout)
        else:
            skipped.append(Skipped(name, "", Why.LAYOUT(what=f"was {was.scheme} in the layout {was.layout!r}")))
    return wanted, skipped


def _wanted(reference: Checkpoint, dim: DimHint) -> tuple[dict[str, Treatment], list[Skipped]]:
    """Return treatments by name without path and wrappers, and what the reference leaves open."""
    recorded, folded = manifest.read(reference.metadata), manifest.read_folded(reference.metadata)
    wanted: dict[str, Treatment] = {}
    open_: dict[str, Skipped] = {}
    for found in find_state_dicts(reference.content):
        prefix = found.fqn("")
        local = {fqn[len(prefix) :]: entry for fqn, entry in recorded.items() if fqn.startswith(prefix)}
        parts = {group.stem: group.keys for group in part_groups(found.tensors, local)}
        parts |= {group.stem: group.keys for group in find_groups(found.tensors)}
        own = {name: entry for name, entry in local.items() if name in parts and entry.is_of(parts[name])}
        treatments, skipped = _like(found.tensors, dim, own)
        were = {name: folded[found.fqn(name)] for name in found.tensors if found.fqn(name) in folded}
        again, more = _treatments(were)
        open_.update({unwrapped(each.fqn): each for each in (*skipped, *more)})
        for each in (*treatments, *again.values()):
            name = unwrapped(each.stem)
            if replace(wanted.setdefault(name, each), stem=each.stem) != each:
                raise CheckpointError(f"the state dicts of the reference treat {name!r} differently; give one")
    left = [
        Skipped(name, "", Reason(f"the reference: {each.reason}", each.reason.why))
        for name, each in open_.items()
        if name not in wanted
    ]
    return wanted, left
