"""Composing the parts in one state dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import defer, shape_of
from wnconvert.checkpoint.content.keys import PartGroup, part_groups
from wnconvert.checkpoint.content.tree import StateDict, storage_key
from wnconvert.checkpoint.layout import Layout, Precision, Reading
from wnconvert.checkpoint.manifest import Folded, Manifest
from wnconvert.checkpoint.weights.composing import Wanted, compose_in
from wnconvert.checkpoint.weights.outcome import DimOrDefault, Memo, Outcome, as_entries, located
from wnconvert.errors import OptionError
from wnconvert.fitness import reason_against_part
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import ONLY_GRADIENTS, Scheme, WeightSpec
from wnconvert.selection import Selection, WeightedOp, kept_dims


@dataclass(frozen=True)
class Fold:
    """One weight to be composed: its groups of keys (several where it is tied), and how."""

    op: WeightedOp
    groups: tuple[PartGroup, ...]
    scheme: Scheme
    spec: WeightSpec
    parts: Mapping[str, Tensor]
    guessed: bool


@dataclass(frozen=True)
class Request:
    """What the user asks of a fold, and what the file says about itself."""

    selection: Selection
    scheme: Scheme | None
    dim: DimOrDefault
    ops: Mapping[str, WeightedOp] | None
    manifest: Manifest
    only: frozenset[str] | None = None
    presets: tuple[Layout, ...] = ()
    precision: Precision = "runtime"

    @property
    def wanted(self) -> Wanted:
        """The same, for what is in the layout of other software."""
        reading = Reading("default" if self.dim == "output" else self.dim, self.presets, self.precision)
        return Wanted(self.selection, self.scheme, self.ops, self.only, self.manifest, reading)


def fold_in(state_dict: StateDict, request: Request, memo: Memo) -> Outcome:
    """Compose the chosen weights of a state dict; each stands where its first part stood."""
    tensors = state_dict.tensors
    outcome = Outcome(dict(state_dict.entries))
    known = compose_in(state_dict, request.wanted, memo)
    outcome.converted += known.converted
    outcome.skipped += known.skipped
    outcome.folded.update(known.folded)
    outcome.notes += [_guessed(scheme) for scheme in known.guessed.values()]
    rest = {key: tensor for key, tensor in tensors.items() if key not in known.claimed}
    ready: dict[Scheme, list[Fold]] = defaultdict(list)
    refused: dict[Scheme, list[Skipped]] = defaultdict(list)
    for groups in _tied(_part_groups(rest, state_dict, request), rest):
        scheme, guessed = _scheme_for(groups[0], state_dict, request)
        fold = _fold_of(groups, scheme, guessed, state_dict, request) if scheme else _unknown(groups[0], request)
        if isinstance(fold, Fold):
            ready[fold.scheme].append(fold)
        else:
            skipped = Skipped(state_dict.fqn(groups[0].stem), "", fold)
            outcome.skipped.append(skipped)
            if scheme:
                refused[scheme].append(skipped)
    removed: set[str] = set()
    new: dict[str, tuple[str, Tensor]] = dict(known.entries)
    for scheme, folds in ready.items():
        shared = [name for name in scheme.shared if name in tensors]
        if shared and refused[scheme]:
            reason = Why.SPANS_MODEL(parts=", ".join(shared), other=refused[scheme][0].fqn)
            outcome.skipped += [Skipped(state_dict.fqn(fold.op.fqn), "", reason) for fold in folds]
            continue
        common = {name: tensors[name].detach() for name in shared}
        folded = _compose_all(folds, common, state_dict, outcome, memo, request.precision)
        new.update(folded)
        removed.update(shared if folded else ())
        outcome.folded.update(_were(folds, {name for name, _ in folded.values()}, state_dict, request))
    _rewrite(state_dict, new, removed, outcome)
    return outcome


def _part_groups(rest: Mapping[str, Tensor], state_dict: StateDict, request: Request) -> list[PartGroup]:
    """Return the groups of parts; without a model, those of names that only the manifest says are weights too."""
    groups = part_groups(rest, request.ops)
    if request.ops is None:
        prefix, known = state_dict.fqn(""), {group.stem for group in groups}
        named = {fqn[len(prefix) :] for fqn in request.manifest if fqn.startswith(prefix)}
        groups += part_groups(rest, named - known)
    return groups


def _were(folds: list[Fold], done: set[str], state_dict: StateDict, request: Request) -> dict[str, Folded]:
    """Return what the weights were that wnconvert had not split, or whose record is lost."""
    own = [(group.stem, fold) for fold in folds for group in fold.groups if group.stem in done]
    return {
        state_dict.fqn(stem): Folded.of(fold.scheme.name, "", fold.spec.kept, fold.scheme)
        for stem, fold in own
        if state_dict.fqn(stem) not in request.manifest
    }


def _tied(groups: Sequence[PartGroup], tensors: Mapping[str, Tensor]) -> list[tuple[PartGroup, ...]]:
    tied: dict[object, list[PartGroup]] = defaultdict(list)
    for group in groups:
        tied[frozenset((part, storage_key(tensors[key])) for part, key in group.keys.items())].append(group)
    return [tuple(same) for same in tied.values()]


def _scheme_for(group: PartGroup, state_dict: StateDict, request: Request) -> tuple[Scheme | None, bool]:
    """Return the scheme of a group, and whether some of its options had to be taken as default."""
    own = frozenset(group.keys)
    recorded = request.manifest.get(state_dict.fqn(group.stem))
    if request.scheme is not None:
        fits = own == frozenset(request.scheme.parts)
        return (request.scheme if fits else None), False
    if recorded is not None and own == frozenset(recorded.scheme.parts):
        return recorded.scheme, False
    return group.scheme, group.scheme is not None and bool(hidden_options(group.scheme))


def hidden_options(scheme: Scheme) -> dict[str, Any]:
    """Return the options of a scheme that say which weight its parts mean, and that their names do not show."""
    known = {option for options in scheme.variants.values() for option in options}
    known |= {field.name for field in fields(scheme) if field.metadata == ONLY_GRADIENTS}
    return {field.name: getattr(scheme, field.name) for field in fields(scheme) if field.name not in known}


def _unknown(group: PartGroup, request: Request) -> Reason:
    keys = " and ".join(f"{part!r}" for part in group.keys)
    return Why.SCHEME_UNKNOWN(parts=keys, scheme=request.scheme.name if request.scheme else "any scheme")


def _fold_of(
    groups: tuple[PartGroup, ...], scheme: Scheme, guessed: bool, state_dict: StateDict, request: Request
) -> Fold | Reason:
    """Return the fold of one weight, or the reason why it is not folded."""
    first = groups[0]
    tensors = state_dict.tensors
    if request.only is not None and request.only.isdisjoint(state_dict.fqn(group.stem) for group in groups):
        return Why.NOT_CHOSEN()
    parts = {part: tensors[key].detach() for part, key in first.keys.items()}
    direction = parts[scheme.direction]
    known = request.ops[first.stem] if request.ops else None
    names = [group.stem for group in groups]
    op = WeightedOp(
        first.stem,
        known.ops if known else (),
        tuple(direction.shape),
        direction.dtype,
        known.output_dims if known else None,
        tuple(names[1:]),
    )
    if reason := _reason_against(op, parts, scheme, known, state_dict, request.selection):
        return reason
    try:
        kept = _kept(op, parts, scheme, state_dict, request)
    except OptionError as error:
        return Why.DIM(error=error)
    spec = WeightSpec.of(direction, kept)
    magnitude = parts.get(scheme.magnitude or "")
    if magnitude is not None and tuple(magnitude.shape) != spec.kept_shape:
        return _misfit(parts)  # torch's own kernel would not notice, and read beyond the end
    return Fold(op, groups, scheme, spec, parts, guessed)


def _reason_against(
    op: WeightedOp,
    parts: Mapping[str, Tensor],
    scheme: Scheme,
    known: WeightedOp | None,
    state_dict: StateDict,
    selection: Selection,
) -> Reason | None:
    magnitude = parts.get(scheme.magnitude or "")
    if known and known.shape != op.shape:
        return Why.SHAPE(shape=op.shape, expected=known.shape)
    if reason := selection.reason_against(located(op, state_dict)):
        return reason
    if taken := [name for name in (op.fqn, *op.aliases) if name in state_dict.entries]:
        return Why.NAME_TAKEN(key=taken[0])
    if missing := [name for name in scheme.shared if name not in state_dict.tensors]:
        return Why.PART_MISSING(part=missing[0])
    if reason := _unfit({**parts, **{name: state_dict.tensors[name] for name in scheme.shared}}):
        return reason
    if len({tensor.dtype for tensor in parts.values()}) > 1:
        return Why.DTYPE()
    if magnitude is not None and magnitude.ndim not in (0, len(op.shape)):
        return _misfit(parts, "; a magnitude has no dims or as many as the weight")
    return None


def _unfit(parts: Mapping[str, Tensor]) -> Reason | None:
    """Return why nothing can be computed with some part, or None."""
    for part, tensor in parts.items():
        if reason := reason_against_part(part, tensor):
            return reason
    return None


def _kept(
    op: WeightedOp, parts: Mapping[str, Tensor], scheme: Scheme, state_dict: StateDict, request: Request
) -> tuple[int, ...]:
    """Return the kept dims: as the user says, as the manifest says, or as the shapes show."""
    if request.dim != "default":
        return kept_dims(request.dim, op)
    recorded = request.manifest.get(state_dict.fqn(op.fqn))
    if recorded is not None and recorded.scheme == scheme:
        return recorded.kept
    if scheme.shared:
        return ()  # what spans all weights reduces every dim
    if len(op.shape) < 2:
        return scheme.infer_kept(parts, kept_dims(0, op))
    first, second = scheme.infer_kept(parts, (0,)), scheme.infer_kept(parts, (1,))
    if first != second:
        raise OptionError("its parts do not show which dim was kept; give it (--dim)")
    return first


def _compose_all(
    folds: list[Fold],
    shared: Mapping[str, Tensor],
    state_dict: StateDict,
    outcome: Outcome,
    memo: Memo,
    precision: Precision = "runtime",
) -> dict[str, tuple[str, Tensor]]:
    """Compose the weights of one scheme; return each new entry by the key of the first part that it replaces."""
    folds = sorted(folds, key=lambda fold: fold.op.fqn) if shared else folds
    scheme = folds[0].scheme
    new: dict[str, tuple[str, Tensor]] = {}
    try:
        common = {**scheme.gather([fold.parts for fold in folds], [fold.spec for fold in folds]), **shared}
    except (RuntimeError, IndexError, ValueError, TypeError):
        outcome.skipped += [Skipped(state_dict.fqn(f.op.fqn), "", _misfit({**f.parts, **shared})) for f in folds]
        return {}
    for fold in folds:
        fqn, ops = state_dict.fqn(fold.op.fqn), ", ".join(fold.op.ops)
        weight = _compose(fold, common, memo, precision)
        if weight is None:
            outcome.skipped.append(Skipped(fqn, ops, _misfit(fold.parts)))
            continue
        like = state_dict.entries[fold.groups[0].keys[scheme.direction]]
        entry = as_entries({"weight": weight}, like)["weight"]
        keys = [key for group in fold.groups for key in group.keys.values()]
        for group in fold.groups:
            new.update(dict.fromkeys(group.keys.values(), ("", entry)))
            new[next(iter(group.keys.values()))] = (group.stem, entry)
        dotted = tuple(state_dict.fqn(key) for key in (*keys, *shared))
        outcome.converted.append(Converted(fqn, ops, scheme.name, dotted, fold.spec.dims, "file"))
    if any(fold.guessed for fold in folds) and new:
        outcome.notes.append(_guessed(scheme))
    return new


def _guessed(scheme: Scheme) -> str:
    options = ", ".join(f"{name}={value}" for name, value in hidden_options(scheme).items())
    return f"the file does not record the options of {scheme.name}; folded with {options}"


def _compose(fold: Fold, common: Mapping[str, Tensor], memo: Memo, precision: Precision) -> Tensor | None:
    """Return the weight, to be computed when needed, or None where the parts do not fit together."""
    shared = tuple(storage_key(tensor) for tensor in common.values())
    own = frozenset((part, storage_key(tensor)) for part, tensor in fold.parts.items())
    key = (own, shared, fold.scheme, fold.spec)
    if key not in memo:
        parts = {**fold.parts, **common}
        try:
            shown = _shown(fold, parts)
        except (RuntimeError, IndexError, ValueError, TypeError):  # shapes from a file can be anything
            return None
        rows = None
        if fold.scheme.channelwise(fold.spec):
            rows = partial(_some_composed, fold, parts, precision)
        memo[key] = defer(lambda: _composed(fold, parts, precision), shown, list(parts.values()), rows)
    weight: Tensor = memo[key]
    return weight if tuple(weight.shape) == fold.spec.shape else None


def _composed(fold: Fold, parts: Mapping[str, Tensor], precision: Precision) -> Tensor:
    if precision == "runtime":
        return fold.scheme.compose(parts, fold.spec)
    exact = {part: tensor.double() for part, tensor in parts.items()}
    return fold.scheme.compose(exact, replace(fold.spec, dtype=torch.float64)).to(fold.spec.dtype)


def _some_composed(fold: Fold, parts: Mapping[str, Tensor], precision: Precision, rows: slice) -> Tensor:
    some = {part: tensor[rows] for part, tensor in parts.items()}
    shape = tuple(some[fold.scheme.direction].shape)
    return _composed(replace(fold, spec=replace(fold.spec, shape=shape)), some, precision)


def _shown(fold: Fold, parts: Mapping[str, Tensor]) -> Tensor:
    """Return a tensor without data of the shape, dtype and strides that the composed weight will have."""
    if parts.keys() == {fold.scheme.direction, fold.scheme.magnitude}:
        # these are known to fit, and computing without data makes torch import much more of itself
        return shape_of(parts[fold.scheme.direction])
    return fold.scheme.compose({part: _without_data(tensor) for part, tensor in parts.items()}, fold.spec)


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _misfit(parts: Mapping[str, Tensor], more: str = "") -> Reason:
    shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in parts.items())
    return Why.MISFIT(how=f": {shapes}{more}")


def _rewrite(state_dict: StateDict, new: Mapping[str, tuple[str, Tensor]], removed: set[str], outcome: Outcome) -> None:
    outcome.entries = {}
    for key, value in state_dict.entries.items():
        if key in new:
            name, weight = new[key]
            outcome.entries.update({name: weight} if name else {})
        elif key not in removed:
            outcome.entries[key] = value
