"""What a file says about a model: which weights it normalizes, or did before they were folded, and how."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.comparing.matching import Outline, partners
from wnconvert.checkpoint.content.difference import difference
from wnconvert.checkpoint.content.keys import part_groups, plain_weights
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.conversions.conversion import (
    Conversion,
    chosen_state_dicts,
    is_within,
    tree_of,
)
from wnconvert.checkpoint.conversions.treatment import Treatment, treat
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, DimHint, Group, find_groups, remark_on, spelling
from wnconvert.checkpoint.manifest import Manifest, Records
from wnconvert.checkpoint.weights.outcome import DimOrDefault
from wnconvert.device import CPU, Device, DeviceLike, resolve_device
from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.reasons import Reason, Why
from wnconvert.report import Report, Skipped, summary
from wnconvert.scheme import SCHEMES
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.selection import Selection, WeightedOp


@dataclass(frozen=True)
class _Model:
    """What a state dict of the reference says of its weights.

    Attributes:
        outline: which it is.
        ways: how to treat each weight that can be treated so, by name without wrappers.
        skipped: the others that it normalizes, with the reasons.
    """

    outline: Outline
    ways: Mapping[str, Treatment]
    skipped: Sequence[Skipped]

    def __str__(self) -> str:
        return str(self.outline.state_dict)

    def is_like(self, other: _Model) -> bool:
        """Return whether it treats the same weights, of the same shapes, in the same way."""
        return self.outline.shapes == other.outline.shapes and self.ways == other.ways


def _repeatable(layout: str) -> bool:
    """Return whether `apply` can write a layout; the empty name is that of wnconvert's own."""
    return not layout or (layout in LAYOUTS and LAYOUTS.get(layout).repeatable)


def apply_like(
    checkpoint: Checkpoint,
    reference: Checkpoint,
    *,
    dim: DimHint = "default",
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    device: DeviceLike = None,
) -> Conversion:
    """Split the plain weights of a checkpoint exactly as those of a reference are: which, how, and in which layout.

    Each state dict is split as that of the reference to which it belongs: the one at the same place, or where the files
    are laid out apart, the one that has most names in common; see `wnconvert.checkpoint.comparing.matching`. Within it,
    weights are matched by name, without what training wrappers add. Weights that the reference records as folded are
    split as they were. The report has every weight that the reference normalizes: converted, or skipped and why.

    A spectral norm comes back with the vectors of the reference, and with its very weight where the file has the folded
    one; the last bits of ``u``, or where the weight was trained since its length, are such that what the layer computes
    with is the weight of the file, bit for bit.

    Args:
        checkpoint: what to convert; it is not modified.
        reference: a checkpoint of the wanted form.
        dim: the kept dim, for what the reference does not show.
        within: dotted paths; only state dicts at these places, or below, are converted, and only those of the reference
            count. A file that has none of the places counts as a whole, but each must be in one of the two.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        device: where weights are computed; by default on the CPU.

    Raises:
        OptionError: there is no state dict at a path of ``within``.
        CheckpointError: a state dict fits several of the reference equally well, and they treat it differently.
        VerificationError: a weight would change, for it is none that was folded from a spectral norm.
        DeviceError: there is no such device here.
        NothingToConvertError: no weight was converted.
    """
    where = resolve_device(device)
    for found in find_state_dicts(reference.content):
        if remark := remark_on(found.tensors, reference=True):
            raise CheckpointError(f"the reference {remark}")
    here, there, places = _narrowed(find_state_dicts(tree_of(checkpoint)), find_state_dicts(reference.content), within)
    models = _models(there, reference, dim)
    left = [each for model in models for each in model.skipped]
    if not any(model.ways for model in models):
        reason = summary(left) or "the reference normalizes no weight"
        raise NothingToConvertError(f"nothing to convert: {reason}", report=Report(skipped=tuple(left)))
    chosen, others, notes = _chosen(here, models)
    wanted = {
        (id(model), name): way
        for model in {id(each): each for each in (*chosen.values(), *others)}.values()
        for name, way in model.ways.items()
    }
    return treat(
        checkpoint,
        wanted,
        lambda found, name: (id(chosen.get(found.path)), unwrapped(name)),
        Why.ABSENT(known="the reference has it", lacking="this file has not"),
        within=places,
        optimizer=optimizer,
        notes=[*(f"of the reference: {note}" for note in reference.notes), *notes],
        skipped=left,
        device=where,
    )


def _narrowed(
    here: list[StateDict], there: list[StateDict], within: Sequence[str]
) -> tuple[list[StateDict], list[StateDict], list[str]]:
    """Return the chosen state dicts of a file and a reference, and the places among ``within`` that the file has."""
    kept = []
    for found in (here, there):
        had = [place for place in within if any(is_within(each, place) for each in found)]
        kept.append((chosen_state_dicts(found, had), had))
    chosen_state_dicts([*here, *there], within)  # raises where neither has a place
    (ours, places), (theirs, _) = kept
    return ours, theirs, places


def _chosen(
    here: Sequence[StateDict], models: Sequence[_Model]
) -> tuple[dict[tuple[Hashable, ...], _Model], list[_Model], list[str]]:
    """Return the model of the reference that each state dict is, by path, those that nothing is, and notes on both."""
    by_outline = {id(model.outline): model for model in models}
    own = [Outline(found) for found in here]
    chosen: dict[tuple[Hashable, ...], _Model] = {}
    notes: list[str] = []
    met: set[int] = set()
    for each, found in zip(own, partners(own, [model.outline for model in models]), strict=True):
        several = [by_outline[id(outline)] for outline in found]
        met.update(map(id, several))
        if several:
            chosen[each.state_dict.path] = _the_one(each, several)
        elif plain_weights(each.state_dict.tensors):
            notes.append(f"left as it is, for the reference has none like it: {each.state_dict}")
    others = [model for model in models if id(model) not in met]
    copies = [model for model in others if any(model.is_like(each) for each in chosen.values())]
    notes += [f"only in the reference, where it is like another: {model}" for model in copies if model.ways]
    return chosen, [model for model in others if model not in copies], notes


def _the_one(own: Outline, several: Sequence[_Model]) -> _Model:
    """Return the first of several models that a state dict may be, if it matters not which.

    Raises:
        CheckpointError: it does.
    """
    first, *rest = several
    for other in rest:
        for name in own.shapes:
            one, two = first.ways.get(name), other.ways.get(name)
            if one != two or (one and two and difference(one.parts, two.parts)):
                which = f"{first} or {other} of the reference, which treat {name!r} differently"
                raise CheckpointError(f"{own.state_dict} may be {which}; choose a place (--only)")
    return first


def _models(found: Sequence[StateDict], reference: Checkpoint, dim: DimHint) -> list[_Model]:
    """Return what each state dict of a reference says."""
    recorded, folded = manifest.read(reference.metadata), manifest.read_folded(reference.metadata)
    return [_model(each, recorded, folded, dim) for each in found]


def _model(found: StateDict, recorded: Manifest, folded: Records, dim: DimHint) -> _Model:
    prefix = found.fqn("")
    local = {fqn[len(prefix) :]: entry for fqn, entry in recorded.items() if fqn.startswith(prefix)}
    groups = find_groups(found.tensors, dim=dim)
    parts = {group.stem: group.keys for group in (*part_groups(found.tensors, local), *part_groups(found.tensors))}
    parts |= {group.stem: group.keys for group in groups}
    own = {name: entry for name, entry in local.items() if name in parts and entry.is_of(parts[name])}
    treatments, skipped = _like(found, groups, own)
    again, more = _treatments({name: folded[found.fqn(name)] for name in found.tensors if found.fqn(name) in folded})
    ways: dict[str, Treatment] = {}
    for each in (*treatments, *again.values()):
        name = unwrapped(each.stem)
        if ways.setdefault(name, each) != each:
            raise CheckpointError(f"{found} of the reference treats {name!r} in two ways, under two names")
    left = [
        Skipped(found.fqn(each.fqn), "", Reason(f"the reference: {each.reason}", each.reason.why))
        for each in (*skipped, *more)
        if unwrapped(each.fqn) not in ways
    ]
    ways = {name: replace(way, stem=found.fqn(way.stem)) for name, way in ways.items()}
    return _Model(Outline(found, {stem: tuple(keys.values()) for stem, keys in parts.items()}), ways, left)


def _like(found: StateDict, groups: Sequence[Group], recorded: Manifest) -> tuple[list[Treatment], list[Skipped]]:
    """Return how to treat each weight that a reference normalizes in a way that can be applied, and the others.

    Args:
        found: a state dict of the wanted form.
        groups: its weights in parts.
        recorded: what counts of the manifest of the reference, by names as in the state dict.
    """
    treatments: list[Treatment] = []
    skipped: list[Skipped] = []
    spelled = {group.stem: group for group in groups}
    for stem, entry in recorded.items():
        way = Treatment(stem, entry.scheme, entry.kept, spelled[stem].layout if stem in spelled else "")
        treatments.append(_with_parts(way, spelled[stem], found) if stem in spelled else way)
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
            way = Treatment(group.stem, SCHEMES.get(scheme)(), group.kept, group.layout)
            treatments.append(_with_parts(way, group, found))
    return treatments, skipped


def _with_parts(way: Treatment, group: Group, found: StateDict) -> Treatment:
    """Return the treatment of a spectral norm with its parts, as torch has them now; others need none."""
    layout = LAYOUTS.get(group.layout)() if group.layout in LAYOUTS else None
    own = {part: found.tensors[key] for part, key in group.keys.items()}
    torchs = layout.migrated(group, own) if layout and isinstance(way.scheme, SpectralNorm) else None
    if torchs is None or layout is None:
        return way
    parts = {**{name: own[part] for name, part in torchs.parts.items()}, **torchs.values}
    return replace(way, layout=layout.name if layout.api else spelling("hook", way.scheme.name).name, parts=parts)


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


def replay(
    checkpoint: Checkpoint, *, within: Sequence[str] = (), optimizer: OptimizerState = "drop", device: Device = CPU
) -> Conversion:
    """Split the weights that a checkpoint records as folded, and no others, exactly as they were.

    The record stays: it says again what was folded once the parts are composed.

    Args:
        checkpoint: what to convert; it is not modified.
        within: dotted paths; only state dicts at these places, or below, are converted.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        device: where weights are computed.

    Raises:
        NothingToConvertError: no weight was converted.
    """
    records = manifest.read_folded(checkpoint.metadata)
    places = tuple(f"{place}." for place in within)
    wanted, skipped = _treatments({fqn: was for fqn, was in records.items() if not places or fqn.startswith(places)})
    absent = Why.ABSENT(known="the file records it as folded", lacking="does not have it")
    try:
        return treat(
            checkpoint,
            wanted,
            StateDict.fqn,
            absent,
            within=within,
            optimizer=optimizer,
            skipped=skipped,
            device=device,
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
