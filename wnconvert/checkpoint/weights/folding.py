"""Folding one state dict: which of its weights in parts, and each where the first part stood."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from wnconvert.checkpoint.content.tree import StateDict, substituted
from wnconvert.checkpoint.layout import LAYOUTS, Group
from wnconvert.checkpoint.weights.composing import Composition, compose_all, shared_names
from wnconvert.checkpoint.weights.outcome import Memo, Outcome, located
from wnconvert.checkpoint.weights.reading import Parted, Request, composer_of, find_parted
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import ONLY_GRADIENTS, Scheme
from wnconvert.selection import WeightedOp


def fold_in(state_dict: StateDict, request: Request, memo: Memo) -> Outcome:
    """Compose the chosen weights of a state dict, and put each where its first part stood."""
    outcome = Outcome(dict(state_dict.entries))
    chosen: list[Composition] = []
    refused: dict[Scheme, str] = {}
    for parted in find_parted(state_dict, request):
        found = _composition(parted, state_dict, request)
        if isinstance(found, Composition):
            chosen.append(found)
            continue
        outcome.skipped.append(Skipped(state_dict.fqn(parted.stem), _ops(parted.stem, request), found))
        if isinstance(parted.by, Scheme):
            refused.setdefault(parted.by, state_dict.fqn(parted.stem))
    new: dict[str, dict[str, Tensor]] = {}
    for each, weight in compose_all(state_dict, chosen, refused, request.precision, memo):
        fqn, ops = state_dict.fqn(each.op.fqn), ", ".join(each.op.ops)
        if isinstance(weight, Reason):
            outcome.skipped.append(Skipped(fqn, ops, weight))
            continue
        for group in each.groups:
            stem, moved = _placed(group, state_dict)
            first, *others = group.keys.values()
            new |= moved | {first: {stem: weight}} | {key: {} for key in others}
            if state_dict.fqn(group.stem) not in request.recorded:
                outcome.folded[state_dict.fqn(stem)] = each.by.was
        shared = shared_names(each.by.scheme, state_dict)
        new |= {key: {} for key in shared}
        keys = [key for group in each.groups for key in group.keys.values()]
        dims = None if each.by.kept is None else tuple(d for d in range(weight.ndim) if d not in each.by.kept)
        dotted = tuple(map(state_dict.fqn, (*keys, *shared)))
        outcome.converted.append(Converted(fqn, ops, each.by.name, dotted, dims, "file"))
        if each.guessed and (options := _hidden_options(each.guessed)):
            said = ", ".join(f"{name}={value}" for name, value in options.items())
            outcome.notes.append(f"the file does not record the options of {each.guessed.name}; folded with {said}")
    outcome.entries = substituted(state_dict.entries, new)
    return outcome


def _composition(parted: Parted, state_dict: StateDict, request: Request) -> Composition | Reason:
    """Return what is to be composed, or why a weight stays as it is."""
    names = [group.stem for group in parted.groups]
    if request.only is not None and not any(state_dict.fqn(name) in request.only for name in names):
        return Why.NOT_ASKED_FOR()
    if isinstance(parted.by, Reason):
        return parted.by
    lead = state_dict.tensors[parted.groups[0].keys[parted.lead]]
    known = request.ops.get(parted.stem) if request.ops is not None else None
    if request.ops is not None and known is None:
        return Why.NOT_IN_MODEL()
    if known is not None and known.shape != tuple(lead.shape):
        return Why.SHAPE(shape=tuple(lead.shape), expected=known.shape)
    ops, output_dims = (known.ops, known.output_dims) if known else ((), None)
    op = WeightedOp(parted.stem, ops, tuple(lead.shape), lead.dtype, output_dims, tuple(names[1:]))
    if reason := request.selection.reason_against(located(op, state_dict)):
        return reason
    own = {key for group in parted.groups for key in group.keys.values()}
    if taken := [name for name in names if name in state_dict.entries and name not in own]:
        return Why.KEY_TAKEN(key=taken[0])
    by = composer_of(parted, op, state_dict, request)
    return by if isinstance(by, Reason) else Composition(op, parted.groups, by, parted.guessed)


def _ops(stem: str, request: Request) -> str:
    return ", ".join(request.ops[stem].ops) if request.ops and stem in request.ops else ""


def _placed(group: Group, state_dict: StateDict) -> tuple[str, dict[str, dict[str, Tensor]]]:
    """Return the name of a folded weight, and the other entries of its module under the names without a wrapper."""
    prefixes = LAYOUTS.get(group.layout)().unwrapped(group.stem) if group.layout else None
    if prefixes is None:
        return group.stem, {}
    old, new = prefixes
    inner = {key: new + key[len(old) :] for key in state_dict.under(old)}
    if any(name in state_dict.tensors for name in inner.values()):
        return group.stem, {}
    return new + group.stem[len(old) :], {key: {name: state_dict.tensors[key]} for key, name in inner.items()}


def _hidden_options(scheme: Scheme) -> dict[str, Any]:
    """Return the options of a scheme that say which weight its parts mean, and that their names do not show."""
    known = {option for options in scheme.variants.values() for option in options}
    known |= {field.name for field in fields(scheme) if field.metadata == ONLY_GRADIENTS}
    return {field.name: getattr(scheme, field.name) for field in fields(scheme) if field.name not in known}
