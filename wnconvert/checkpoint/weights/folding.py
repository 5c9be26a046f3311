"""Folding one state dict: which of its weights in parts, and each where the first part stood."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache, partial
from typing import Any

from torch import Tensor

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.optimizer_reset import Change
from wnconvert.checkpoint.content.tree import StateDict, substituted
from wnconvert.checkpoint.layout import LAYOUTS
from wnconvert.checkpoint.weights.composing import Composition
from wnconvert.checkpoint.weights.outcome import Memo, Outcome, left_out, located, without_wrapper
from wnconvert.checkpoint.weights.reading import Parted, Request, compose_in
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import ONLY_GRADIENTS, Scheme


def fold_in(state_dict: StateDict, request: Request, memo: Memo) -> Outcome:
    """Compose the chosen weights of a state dict, and put each where its first part stood."""
    outcome = Outcome(dict(state_dict.entries))
    new: dict[str, dict[str, Tensor]] = {}
    shared: dict[str, None] = {}
    for each, weight in compose_in(state_dict, request, memo, partial(_reason_against, state_dict, request)):
        stem = each.groups[0].stem
        fqn, ops = state_dict.fqn(stem), ", ".join(request.ops[stem].ops if request.ops and stem in request.ops else ())
        if isinstance(weight, Reason):
            outcome.skipped.append(Skipped(fqn, ops, weight))
            continue
        assert isinstance(each, Composition)
        new |= {key: {} for key in each.keys}
        for group in each.groups:
            stem, moved = without_wrapper(group, state_dict)
            new |= moved | {next(iter(group.keys.values())): {stem: weight}}
            if (recorded := request.recorded.get(state_dict.fqn(group.stem))) is None:
                outcome.folded[state_dict.fqn(stem)] = each.by.was()
            elif recorded.device not in (manifest.CPU, request.device.name):
                outcome.notes.append(
                    f"weights were split on {recorded.device} and composed on {request.device.name}: last bits may "
                    "differ from what they were (--device)"
                )
        outcome.parameters.append(_change(each, state_dict))
        shared |= dict.fromkeys(each.by.scheme.shared if each.by.scheme else ())
        dims = None if each.by.kept is None else tuple(dim for dim in range(weight.ndim) if dim not in each.by.kept)
        keys = tuple(map(state_dict.fqn, each.keys))
        entry = Converted(fqn, ops, each.by.name, keys, dims, "file", kept_dim=each.by.kept, plain=True)
        outcome.converted.append(entry)
        # torch's hooks have the options that torch has; what wnconvert alone writes may have had others
        if each.by.scheme and each.guessed and (options := hidden_options(each.guessed)):
            said = ", ".join(f"{name}={value}" for name, value in options.items())
            outcome.notes.append(
                f"the file does not record the options of {each.guessed.name}; folded with {said}, "
                "give others with --option"
            )
    outcome.parameters += [Change(tuple(shared), ())] if shared else []
    outcome.entries = substituted(state_dict.entries, new)
    return outcome


def _change(composition: Composition, state_dict: StateDict) -> Change:
    """Return which parameters of a model become the weight, both under their first names."""
    scheme = composition.by.scheme
    trained = [
        tuple(key for part, key in group.keys.items() if part not in scheme.state)
        if scheme
        else LAYOUTS.get(group.layout)().trained(group)
        for group in composition.groups
    ]
    buffers = {key for group in composition.groups for key in group.keys.values()}.difference(*trained)
    return Change(trained[0], (without_wrapper(composition.groups[0], state_dict)[0],), tuple(buffers))


def _reason_against(state_dict: StateDict, request: Request, parted: Parted) -> Reason | None:
    """Return why a weight stays as it is, or None."""
    names = [group.stem for group in parted.groups]
    if request.only is not None and not any(state_dict.fqn(name) in request.only for name in names):
        return Why.NOT_CHOSEN()
    if reason := left_out(names, state_dict, request.selection):
        return reason
    if isinstance(parted.by, Reason):
        return parted.by
    op, known = parted.op, (request.ops or {}).get(names[0])
    assert op is not None
    if request.ops is not None and known is None:
        return Why.ABSENT()
    if known is not None and known.shape != op.shape:
        return Why.SHAPE(shape=op.shape, expected=known.shape)
    if reason := request.selection.reason_against(located(op, state_dict)):
        return reason
    own = {key for group in parted.groups for key in group.keys.values()}
    taken = [name for name in names if name in state_dict.entries and name not in own]
    return Why.NAME_TAKEN(key=taken[0]) if taken else None


@lru_cache(maxsize=256)
def hidden_options(scheme: Scheme) -> dict[str, Any]:
    """Return the options of a scheme that say which weight its parts mean, and that their names do not show."""
    known = {option for options in scheme.variants.values() for option in options}
    known |= {field.name for field in fields(scheme) if field.metadata == ONLY_GRADIENTS}
    return {field.name: getattr(scheme, field.name) for field in fields(scheme) if field.name not in known}
