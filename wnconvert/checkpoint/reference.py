"""What a reference file says about a model: which weights it normalizes, how, and how it spells them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from torch import Tensor

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.adapter_files import is_adapter
from wnconvert.checkpoint.convert import Conversion, apply
from wnconvert.checkpoint.effective import unwrapped
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.keys import part_groups
from wnconvert.checkpoint.layout import DimHint, find_groups
from wnconvert.checkpoint.manifest import Manifest
from wnconvert.checkpoint.migration import migrate
from wnconvert.checkpoint.tree import find_state_dicts
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.report import Report, Skipped
from wnconvert.scheme import SCHEMES, Scheme
from wnconvert.selection import Selection, WeightedOp


@dataclass(frozen=True)
class Treatment:
    """How to treat one weight as a reference does.

    Attributes:
        stem: dotted name of the weight.
        scheme: the scheme, with the options that the reference records.
        kept: the kept dims.
        layout: name of the layout that the reference has.
    """

    stem: str
    scheme: Scheme
    kept: tuple[int, ...]
    layout: str


def like(
    reference: Mapping[str, Tensor],
    *,
    load: Callable[[str], Tensor] | None = None,
    dim: DimHint = "default",
    recorded: Manifest | None = None,
) -> tuple[list[Treatment], list[Skipped]]:
    """Return how to treat each weight that a reference normalizes in a way that can be applied, and the others.

    Args:
        reference: a state dict of the wanted form; shapes are enough if ``load`` is given.
        load: returns the values of one entry; needed only where shapes leave a question open.
        dim: the kept dim, for what does not show it.
        recorded: the manifest of the reference, by names as in ``reference``; it wins over what keys show.
    """
    known = recorded or {}
    treatments: list[Treatment] = []
    skipped: list[Skipped] = []
    groups = find_groups(reference, load=load, dim=dim)
    spelled = {group.stem: group.layout for group in groups}
    for stem, entry in known.items():
        treatments.append(Treatment(stem, entry.scheme, entry.kept, spelled.get(stem, "weight_norm_hook")))
    for group in groups:
        if group.stem in known:
            continue
        scheme = group.scheme or ""
        if scheme not in SCHEMES or group.layout not in _APPLIED:
            what = group.problem or f"{group.scheme} in this layout cannot be applied"
            skipped.append(Skipped(group.stem, "", what))
        elif group.problem or group.kept is None:
            skipped.append(Skipped(group.stem, "", group.problem or "its kept dim is not known"))
        else:
            treatments.append(Treatment(group.stem, SCHEMES.get(scheme)(), group.kept, group.layout))
    return treatments, skipped


#: layouts whose keys mean the very parts that a scheme splits a weight into.
_APPLIED = frozenset({"weight_norm_hook", "spectral_norm_hook", "parametrization", "spectral_norm_before_1"})


def apply_like(
    checkpoint: Checkpoint,
    reference: Checkpoint,
    *,
    dim: DimHint = "default",
    within: Sequence[str] = (),
    keep_optimizers: bool = False,
) -> Conversion:
    """Split the plain weights of a checkpoint exactly as those of a reference are: which, how, and in which layout.

    Weights are matched by name, without the path to their state dict and without what training wrappers add.

    Args:
        checkpoint: what to convert; it is not modified.
        reference: a checkpoint of the wanted form.
        dim: the kept dim, for what the reference does not show.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers, though it belongs to the parameters as they were.

    Raises:
        NothingToConvertError: no weight was converted.
    """
    if any(is_adapter(found.tensors) for found in find_state_dicts(reference.content)):
        raise CheckpointError(
            "the reference is an adapter; a weight cannot be taken apart into a base and factors again, so keep both"
        )
    wanted, notes = _wanted(reference, dim)
    if not wanted:
        raise NothingToConvertError(f"nothing to convert: {'; '.join(notes) or 'the reference normalizes no weight'}")
    reports: list[Report] = []
    ways = dict.fromkeys((each.scheme, each.kept) for each in wanted.values())
    for scheme, kept in ways:
        names = {name for name, each in wanted.items() if (each.scheme, each.kept) == (scheme, kept)}
        try:
            checkpoint, report = apply(
                checkpoint,
                scheme,
                dim=kept[0] if kept else None,
                selection=Selection(predicate=_named(names)),
                within=within,
                keep_optimizers=keep_optimizers,
            )
        except NothingToConvertError:
            continue
        reports.append(replace(report, skipped=()))
    if not reports:
        raise NothingToConvertError("nothing to convert: the file has no plain weight that the reference normalizes")
    spelled = {name for name, each in wanted.items() if each.layout == "parametrization"}
    report = reduce(Report.__add__, reports)
    done = {unwrapped(entry.fqn) for entry in report.converted}
    if any(_ends(name, done) for name in spelled):
        checkpoint = migrate(checkpoint, "parametrization", selection=Selection(predicate=_named(spelled))).checkpoint
    missing = [name for name in wanted if not _ends(name, done)]
    skipped = tuple(Skipped(name, "", "is no plain weight of this file, but the reference has it") for name in missing)
    return Conversion(checkpoint, replace(report, skipped=skipped, notes=(*report.notes, *notes)))


def _wanted(reference: Checkpoint, dim: DimHint) -> tuple[dict[str, Treatment], list[str]]:
    """Return treatments by name without path and wrappers, and what the reference leaves open."""
    recorded = manifest.read(reference.metadata)
    wanted: dict[str, Treatment] = {}
    notes = []
    for found in find_state_dicts(reference.content):
        own = {name: recorded[found.fqn(name)] for name in _stems(found.tensors) if found.fqn(name) in recorded}
        treatments, skipped = like(found.tensors, dim=dim, recorded=own)
        notes += [f"the reference leaves {found.fqn(each.fqn)!r} open: {each.reason}" for each in skipped]
        for each in treatments:
            if len(each.kept) < 2 and wanted.setdefault(unwrapped(each.stem), each).kept != each.kept:
                raise CheckpointError(f"the state dicts of the reference treat {each.stem!r} differently; give one")
    return wanted, notes


def _stems(tensors: Mapping[str, Tensor]) -> set[str]:
    return {group.stem for group in part_groups(tensors)} | {group.stem for group in find_groups(tensors)}


def _named(names: Collection[str]) -> Callable[[WeightedOp], bool]:
    return lambda op: any(unwrapped(name) in names for name in (op.fqn, *op.aliases))


def _ends(name: str, done: Collection[str]) -> bool:
    """Return whether a name, as it is in its state dict, is among full ones."""
    return any(fqn == name or fqn.endswith(f".{name}") for fqn in done)
