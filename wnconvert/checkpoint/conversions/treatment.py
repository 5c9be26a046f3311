"""Splitting each weight of a checkpoint in a way of its own: by which scheme, with which kept dims, in which layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.keys import group_ties, part_groups
from wnconvert.checkpoint.content.optimizers import OptimizerState
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.conversions.conversion import Conversion, chosen_state_dicts, conversion_of, tree_of
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, find_groups
from wnconvert.checkpoint.weights.applying import apply_to
from wnconvert.checkpoint.weights.outcome import Memo, Outcome
from wnconvert.checkpoint.weights.unfolding import Unfolding, unfold_in
from wnconvert.device import CPU, Device
from wnconvert.errors import VerificationError
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.scheme import Scheme
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.selection import Selection, WeightedOp

#: what a weight is looked up by.
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Treatment:
    """How to treat one weight.

    Attributes:
        stem: dotted name of the weight where it was seen.
        scheme: the scheme, with its options.
        kept: the kept dims.
        layout: name of the layout in which its parts are spelled.
        parts: parts that it had, whose state comes back with it.
    """

    stem: str = field(compare=False)
    scheme: Scheme
    kept: tuple[int, ...]
    layout: str
    parts: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)


@torch.no_grad()
def treat(
    checkpoint: Checkpoint,
    wanted: Mapping[Key, Treatment],
    named: Callable[[StateDict, str], Key],
    absent: Reason,
    *,
    within: Sequence[str] = (),
    optimizer: OptimizerState = "drop",
    notes: Sequence[str] = (),
    skipped: Sequence[Skipped] = (),
    device: Device = CPU,
) -> Conversion:
    """Split the weights of a checkpoint, each in its own way. Every one that is wanted is in the report.

    Args:
        checkpoint: what to convert; it is not modified.
        wanted: the treatments.
        named: returns what an entry of a state dict is looked up by among the treatments.
        absent: the reason given for a weight that is in no state dict.
        within: dotted paths; only state dicts at these places, or below, are converted.
        optimizer: what becomes of the state of optimizers that belongs to the parameters as they were: it is left out
            (``"drop"``), emptied for the new ones (``"reset"``), or kept (``"keep"``).
        notes: what the user should know besides.
        skipped: weights that have no treatment.
        device: where weights are computed.

    Raises:
        VerificationError: a weight would change, for it is none that was folded from a spectral norm.
        NothingToConvertError: no weight was converted.
    """
    memos: dict[Scheme, Memo] = defaultdict(dict)
    seen: set[Key] = set()
    outcomes: dict[int, Outcome] = {}
    for found in chosen_state_dicts(find_state_dicts(tree_of(checkpoint)), within):
        parted = _parted(found)
        names = {name: key for name in (*found.tensors, *parted) if (key := named(found, name)) in wanted}
        seen.update(names.values())
        chosen = {name: wanted[key] for name, key in names.items()}
        outcomes[id(found.entries)] = _treated(found, chosen, parted, memos, device)
    _require_folded(outcomes.values())
    missing = [Skipped(way.stem, "", absent) for key, way in wanted.items() if key not in seen]
    new = {fqn: entry for outcome in outcomes.values() for fqn, entry in outcome.manifest.items()}
    metadata = manifest.write(checkpoint.metadata, {**manifest.read(checkpoint.metadata), **new})
    return conversion_of(
        checkpoint, outcomes, metadata, notes, [*skipped, *missing], optimizer=optimizer, device=device
    )


def _require_folded(outcomes: Iterable[Outcome]) -> None:
    """Check that what comes back under spectral norm, which could be kept, is what the file has.

    Raises:
        VerificationError: it is not.
    """
    for entry in (each for outcome in outcomes for each in outcome.converted):
        if entry.scheme == SpectralNorm.name and entry.max_abs_error:
            raise VerificationError(
                f"{entry.fqn!r} cannot come back under spectral norm: divided by its largest singular value, its "
                f"elements would change by up to {entry.max_abs_error:.3g}; give a reference with the vectors that it "
                f"had (--like), choose other state dicts (--only), or have it divided (--scheme {entry.scheme})"
            )


def _parted(state_dict: StateDict) -> dict[str, str]:
    """Return the schemes of the weights that are in parts."""
    tensors = state_dict.tensors
    found = {group.stem: group.scheme for group in find_groups(tensors)}
    found |= {group.stem: group.scheme.name for group in part_groups(tensors) if group.scheme}
    return {stem: scheme for stem, scheme in found.items() if scheme and stem not in tensors}


def _treated(
    state_dict: StateDict,
    wanted: Mapping[str, Treatment],
    parted: Mapping[str, str],
    memos: Mapping[Scheme, Memo],
    device: Device,
) -> Outcome:
    """Split the wanted weights of a state dict, save for those that are in parts already."""
    outcome = Outcome(dict(state_dict.entries))
    for name, way in wanted.items():
        if name in parted:
            same = parted[name] == way.scheme.name
            why = Why.ALREADY_SPLIT if same else Why.OTHER_SCHEME
            outcome.skipped.append(Skipped(state_dict.fqn(name), "", why(scheme=parted[name])))
    ways = _free(state_dict, wanted, outcome)
    for layout, scheme, kept in dict.fromkeys((way.layout, way.scheme, way.kept) for way in ways.values()):
        if isinstance(scheme, SpectralNorm) and len(kept) == 1 and layout in LAYOUTS and LAYOUTS.get(layout).api:
            these = {
                op: way for op, way in ways.items() if (way.layout, way.scheme, way.kept) == (layout, scheme, kept)
            }
            like = {op.fqn: way.parts for op, way in these.items() if way.parts}
            wanted_so = Unfolding(
                LAYOUTS.get(layout)(), scheme.name, kept[0], ops=list(these), like=like, device=device
            )
            held = _unfolded(state_dict, outcome, wanted_so)
            ways = {op: way for op, way in ways.items() if op not in held}
    for scheme, kept in dict.fromkeys((way.scheme, way.kept) for way in ways.values()):
        ops = [op for op, way in ways.items() if (way.scheme, way.kept) == (scheme, kept)]
        step = apply_to(
            replace(state_dict, entries=outcome.entries), scheme, kept, Selection(), ops, memos[scheme], device
        )
        outcome.entries = step.entries
        outcome.converted += step.converted
        outcome.skipped += step.skipped
        outcome.parameters += step.parameters
        outcome.manifest.update(step.manifest)
    done = {op: way for op, way in ways.items() if state_dict.fqn(op.fqn) in outcome.manifest}
    _rename(state_dict, {old: new for op, way in done.items() for old, new in _spelled(op, way).items()}, outcome)
    return outcome


def _unfolded(state_dict: StateDict, outcome: Outcome, wanted: Unfolding) -> list[WeightedOp]:
    """Unfold those of the wanted weights that torch's modules give back as they are; return these.

    The scheme divides by the largest singular value. A folded weight needs that no more.
    """
    now = replace(state_dict, entries=outcome.entries)
    tried = unfold_in(now, wanted, {})
    known = {group.stem for group in find_groups(replace(now, entries=tried.entries).tensors) if not group.problem}
    good = {entry.fqn for entry in tried.converted if not entry.max_abs_error}
    held = [op for op in wanted.ops or () if op.fqn in known and state_dict.fqn(op.fqn) in good]
    step = unfold_in(now, replace(wanted, ops=held), {})
    outcome.entries = step.entries
    outcome.converted += step.converted
    outcome.parameters += step.parameters
    return held


def _free(state_dict: StateDict, wanted: Mapping[str, Treatment], outcome: Outcome) -> dict[WeightedOp, Treatment]:
    """Return the wanted weights whose keys are free; one that is tied has the way of its first name that has one."""
    ways: dict[WeightedOp, Treatment] = {}
    for op in group_ties(state_dict.tensors):
        way = next((wanted[name] for name in (op.fqn, *op.aliases) if name in wanted), None)
        taken = [key for key in _spelled(op, way).values() if key in state_dict.entries] if way else []
        if taken:
            outcome.skipped.append(Skipped(state_dict.fqn(op.fqn), "", Why.NAME_TAKEN(key=taken[0])))
        elif way:
            ways[op] = way
    return ways


def _spelled(op: WeightedOp, way: Treatment) -> dict[str, str]:
    """Return the keys of the parts in the wanted layout, by those that the scheme gives them."""
    layout = LAYOUTS.get(way.layout)() if way.layout in LAYOUTS else None
    if layout is None or layout.api == "hook" or layout.spells.get(way.scheme.name) != way.scheme.parts:
        return {}
    names = (op.fqn, *op.aliases)
    return {f"{n}_{part}": layout.spell(n, way.scheme.name, part) for n in names for part in way.scheme.parts}


def _rename(state_dict: StateDict, keys: Mapping[str, str], outcome: Outcome) -> None:
    outcome.entries = {keys.get(key, key): value for key, value in outcome.entries.items()}
    outcome.parameters = [
        each._replace(after=tuple(keys.get(str(key), key) for key in each.after)) for each in outcome.parameters
    ]
    full = {state_dict.fqn(key): state_dict.fqn(new) for key, new in keys.items()}
    outcome.converted = [
        replace(entry, keys=tuple(full.get(key, key) for key in entry.keys)) for entry in outcome.converted
    ]
