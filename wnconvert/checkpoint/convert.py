"""The conversions on a whole checkpoint: every state dict in it, weight by weight; all else stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.adapter_files import is_adapter
from wnconvert.checkpoint.applying import DimOrDefault, Memo, Outcome, apply_to
from wnconvert.checkpoint.folding import Request, fold_in
from wnconvert.checkpoint.format import FORMATS, Checkpoint
from wnconvert.checkpoint.inert import require_known
from wnconvert.checkpoint.keys import part_groups, plain_weights
from wnconvert.checkpoint.layout import Layout, Precision, find_groups, read_preset
from wnconvert.checkpoint.optimizers import stale
from wnconvert.checkpoint.tree import StateDict, find_state_dicts, rebuild
from wnconvert.checkpoint.unfolding import Unfolding, scheme_of, unfold_in
from wnconvert.errors import CheckpointError, NothingToConvertError, OptionError
from wnconvert.report import Report, Skipped
from wnconvert.scheme import Scheme, resolve_scheme
from wnconvert.selection import Selection, WeightedOp


class Conversion(NamedTuple):
    """A converted checkpoint, and what was done."""

    checkpoint: Checkpoint
    report: Report


@torch.no_grad()
def apply(
    checkpoint: Checkpoint,
    scheme: str | Scheme | None = None,
    *,
    dim: DimOrDefault = "default",
    selection: Selection | None = None,
    ops: Sequence[WeightedOp] | None = None,
    within: Sequence[str] = (),
    keep_optimizers: bool = False,
) -> Conversion:
    """Split the plain weights of a checkpoint into the parts of a scheme.

    A weight ``conv.weight`` becomes ``conv.weight_g`` and ``conv.weight_v``, at the same place. Each is composed again
    at once and compared; where a function-preserving scheme does not give back the very bits, the weight is skipped.

    A checkpoint that records what was folded in it gets that back, see `wnconvert.checkpoint.reference.replay`, unless
    a scheme, a dim, a selection or ops are given.

    Args:
        checkpoint: what to convert; it is not modified.
        scheme: a scheme, or the name of one; by default what the checkpoint records, or else ``"weight_norm"``.
        dim: the kept dim; ``"default"`` is the scheme's own.
        selection: which weights.
        ops: the weighted ops of the model that the checkpoint belongs to. They decide which keys are weights, and only
            state dicts that hold all of them are converted. Without them the rule of `wnconvert.checkpoint.keys` does.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers, though it belongs to the parameters as they were.

    Raises:
        OptionError: there is no state dict at a path of ``within``.
        NothingToConvertError: no weight was converted.
    """
    from wnconvert.checkpoint import reference  # it is above this module, for it applies too

    chosen, memo, notes = selection or Selection(), Memo(), []
    if scheme is None and manifest.read_folded(checkpoint.metadata):
        if not reference.recorded_schemes(checkpoint):
            notes.append("what the file records as folded cannot be applied again; this is weight_norm instead")
        elif dim == "default" and chosen == Selection() and ops is None:
            return reference.replay(checkpoint, within=within, keep_optimizers=keep_optimizers)
        else:
            notes.append("the file records what was folded; choose no weights and no dim to have exactly that back")
    resolved = resolve_scheme(scheme or "weight_norm")
    before = manifest.read(checkpoint.metadata)
    found, misfits = _fitting(chosen_state_dicts(find_state_dicts(tree_of(checkpoint)), within), ops)
    outcomes = {id(each.entries): apply_to(each, resolved, dim, chosen, ops, memo) for each in found}
    entries = {**before, **{fqn: entry for outcome in outcomes.values() for fqn, entry in outcome.manifest.items()}}
    return conversion_of(checkpoint, outcomes, entries, [*notes, *misfits], keep_optimizers=keep_optimizers)


@torch.no_grad()
def unfold(
    checkpoint: Checkpoint,
    layout: str | Layout,
    *,
    scheme: str | None = None,
    dim: DimOrDefault = "default",
    selection: Selection | None = None,
    ops: Sequence[WeightedOp] | None = None,
    within: Sequence[str] = (),
    keep_optimizers: bool = False,
) -> Conversion:
    """Spell the plain weights of a checkpoint as the parts of a layout, so that its own modules load the file.

    Each is composed again at once by the calls of the live module. A weight that comes back up to rounding is
    converted, with the error in the report; one that the layout cannot hold is skipped. Nothing is recorded in the
    file: keys, or the same preset, tell how to fold it.

    Args:
        checkpoint: what to convert; it is not modified.
        layout: a layout, or the name of one, see `wnconvert.checkpoint.layout.read_preset`.
        scheme: one of the schemes that the layout can spell; by default its first.
        dim: the kept dim; ``"default"`` is the scheme's own. Only torch's own layouts let one choose.
        selection: which weights.
        ops: the weighted ops of the model that the checkpoint belongs to, see `apply`.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers, though it belongs to the parameters as they were.

    Raises:
        UnknownNameError: there is no such layout.
        OptionError: the layout cannot be written, or not so; or there is no state dict at a path of ``within``.
        NothingToConvertError: no weight was converted.
    """
    resolved = layout if isinstance(layout, Layout) else read_preset(layout)
    if dim != "default" and resolved.api is None:
        raise OptionError(f"dim is {dim!r}, but layout {resolved.name!r} keeps one of its own; leave it out")
    wanted = Unfolding(resolved, scheme_of(resolved, scheme), dim, selection or Selection(), ops)
    found, notes = _fitting(chosen_state_dicts(find_state_dicts(tree_of(checkpoint)), within), ops)
    memo = Memo()
    outcomes = {id(each.entries): unfold_in(each, wanted, memo) for each in found}
    before = manifest.read(checkpoint.metadata)
    return conversion_of(checkpoint, outcomes, before, notes, keep_optimizers=keep_optimizers)


@torch.no_grad()
def fold(
    checkpoint: Checkpoint,
    *,
    selection: Selection | None = None,
    scheme: str | Scheme | None = None,
    dim: DimOrDefault = "default",
    ops: Sequence[WeightedOp] | None = None,
    only: Iterable[str] | None = None,
    presets: Iterable[Layout] = (),
    precision: Precision = "runtime",
    within: Sequence[str] = (),
    keep_optimizers: bool = False,
    record: bool = True,
) -> Conversion:
    """Compose the parts in a checkpoint into plain weights.

    The scheme of a weight is told by the exact set of its parts, and by the manifest where the file has one. The
    manifest of the result says what each weight was that wnconvert had not split, so that `apply` can repeat it.

    Args:
        checkpoint: what to convert; it is not modified.
        selection: which weights.
        scheme: fold only this scheme, with these options, whatever the manifest says.
        dim: the kept dim; ``"default"`` is what the manifest says or the shapes show.
        ops: the weighted ops of the plain model; they decide which names are those of weights.
        only: full names of weights, as in a report; nothing else is folded.
        presets: layouts that leave no trace in the keys, see `wnconvert.checkpoint.layout.preset`.
        precision: the bits that the layers compute here, or those of float64 rounded once.
        within: dotted paths; only state dicts at these places, or below, are converted.
        keep_optimizers: keep the state of optimizers, though it belongs to the parameters as they were.
        record: whether the result records what was folded, now and earlier.

    Raises:
        OptionError: there is no state dict at a path of ``within``.
        NothingToConvertError: no weight was converted.
    """
    before = manifest.read(checkpoint.metadata)
    by_name = None if ops is None else {name: op for op in ops for name in (op.fqn, *op.aliases)}
    resolved = None if scheme is None else resolve_scheme(scheme)
    request = Request(
        selection or Selection(),
        resolved,
        dim,
        by_name,
        before,
        None if only is None else frozenset(only),
        tuple(presets),
        precision,
    )
    memo = Memo()
    found = chosen_state_dicts(find_state_dicts(tree_of(checkpoint)), within)
    outcomes = {id(state_dict.entries): fold_in(state_dict, request, memo) for state_dict in found}
    conversion = conversion_of(checkpoint, outcomes, before, [], keep_optimizers=keep_optimizers)
    plain = {found.fqn(name) for found, name in _names(conversion.checkpoint)}
    entries = {fqn: entry for fqn, entry in before.items() if fqn not in plain}
    folded = {fqn: was for outcome in outcomes.values() for fqn, was in outcome.folded.items()} if record else {}
    metadata = manifest.write(
        checkpoint.metadata, entries, {**manifest.read_folded(checkpoint.metadata), **folded} if record else {}
    )
    return Conversion(replace(conversion.checkpoint, metadata=metadata), conversion.report)


def _names(checkpoint: Checkpoint) -> Iterator[tuple[StateDict, str]]:
    return ((found, name) for found in find_state_dicts(checkpoint.content) for name in found.tensors)


def _fitting(found: list[StateDict], ops: Sequence[WeightedOp] | None) -> tuple[list[StateDict], list[str]]:
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
        if not any(_is_within(each, place) for each in found):
            known = ", ".join(str(each) for each in found if plain_weights(each.tensors) or part_groups(each.tensors))
            raise OptionError(f"there is no state dict at {place!r} (there are: {known or 'none'})")
    return [each for each in found if not within or any(_is_within(each, place) for place in within)]


def _is_within(state_dict: StateDict, place: str) -> bool:
    return f"{state_dict.fqn('')}".startswith(f"{place}.")


def conversion_of(
    checkpoint: Checkpoint,
    outcomes: dict[int, Outcome],
    entries: manifest.Manifest,
    notes: Sequence[str] = (),
    skipped: Sequence[Skipped] = (),
    *,
    keep_optimizers: bool,
) -> Conversion:
    """Return a checkpoint in which state dicts are replaced, and the report.

    Args:
        checkpoint: what is converted.
        outcomes: what became of each state dict, by the ``id`` of its entries.
        entries: the new manifest.
        notes: what the user should know besides.
        skipped: weights that are in none of the state dicts.
        keep_optimizers: keep the state of optimizers that is stale now.

    Raises:
        NothingToConvertError: no weight was converted.
    """
    old = _stale_optimizers(checkpoint.content, outcomes)
    notes = [*notes, *checkpoint.notes, *FORMATS.get(checkpoint.format)().notes(checkpoint)]
    what = (
        "still belongs to the parameters as they were"
        if keep_optimizers
        else "is left out, for it is stale; --optimizer keep keeps it"
    )
    notes += [f"the optimizer state in {str(each)!r} {what}" for each in old]
    reports = [
        Report(tuple(outcome.converted), tuple(outcome.skipped), tuple(outcome.notes)) for outcome in outcomes.values()
    ]
    report = reduce(Report.__add__, reports, Report(skipped=tuple(skipped), notes=tuple(notes)))
    report = replace(report, notes=tuple(dict.fromkeys(report.notes)))
    if not report.modified:
        require_known(checkpoint.content)
        done = len(manifest.read_folded(checkpoint.metadata))
        already = f"; the file records {_weights(done)} as folded already" if done else ""
        raise NothingToConvertError(_why_nothing(report, outcomes) + already)
    new = {key: outcome.entries for key, outcome in outcomes.items()}
    content = rebuild(checkpoint.content, new, () if keep_optimizers else {id(each.entries) for each in old})
    require_known(content)
    metadata = manifest.write(checkpoint.metadata, entries)
    return Conversion(replace(checkpoint, content=content, metadata=metadata, notes=()), report)


def _stale_optimizers(content: Any, outcomes: dict[int, Outcome]) -> list[StateDict]:
    found = find_state_dicts(content)
    done = {key for key, outcome in outcomes.items() if outcome.converted}
    touched = [each for each in found if id(each.entries) in done]
    return stale(content, touched, [each for each in found if id(each.entries) not in done])


def _why_nothing(report: Report, outcomes: dict[int, Outcome]) -> str:
    if not outcomes:
        return "nothing to convert: the file holds no dict of tensors"
    if not report.skipped and any(is_adapter(outcome.entries) for outcome in outcomes.values()):
        return (
            "nothing to convert: the file holds an adapter of PEFT; fold it together with its base (--adapter), or "
            "give its options (--preset dora:alpha=...) if the base is in the file"
        )
    if not report.skipped:
        return "nothing to convert: no key looks like one of a weight that this conversion is for"
    return f"nothing to convert: {summary(report.skipped)}"


def summary(skipped: Sequence[Skipped], limit: int = 3) -> str:
    """Return the reasons in one line, the most frequent first, each with the number of weights."""
    counts = Counter(entry.reason for entry in skipped).most_common()
    shown = [f"{reason} ({_weights(count)})" for reason, count in counts[:limit]]
    rest = sum(count for _, count in counts[limit:])
    return "; ".join([*shown, *([f"other reasons ({_weights(rest)})"] if rest else [])])


def _weights(count: int) -> str:
    return f"{count} weight{'' if count == 1 else 's'}"
