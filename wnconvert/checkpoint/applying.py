"""Splitting the plain weights of one state dict."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import memory
from wnconvert.checkpoint.deferred import defer, slices, small_beside
from wnconvert.checkpoint.keys import DTYPES, PartGroup, group_ties, part_groups, part_names, plain_weights
from wnconvert.checkpoint.manifest import Entry, Folded
from wnconvert.checkpoint.tree import StateDict, bits_equal, storage_key
from wnconvert.errors import OptionError
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.selection import Dim, Selection, WeightedOp, kept_dims
from wnconvert.verification import reason_for_difference

#: a dim, or the word for "what the scheme does where the user says nothing".
DimOrDefault: TypeAlias = Dim | Literal["default"]
#: the same, or the very dims that are kept.
KeptDims: TypeAlias = DimOrDefault | tuple[int, ...]
#: parts and weights already made, so that what is tied is made once and stays tied.
Memo: TypeAlias = dict[Hashable, Any]


@dataclass
class Outcome:
    """What became of one state dict.

    Attributes:
        entries: its new entries, in order.
        converted: one for each weight that was converted.
        skipped: one for each that was not.
        manifest: how each weight was split.
        folded: what each weight was that wnconvert had not split.
        notes: what the user should know besides.
    """

    entries: dict[Any, Any]
    converted: list[Converted] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    manifest: dict[str, Entry] = field(default_factory=dict)
    folded: dict[str, Folded] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Candidate:
    """A weight that is to be split."""

    op: WeightedOp
    weight: Tensor
    spec: WeightSpec

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the weight."""
        return (self.op.fqn, *self.op.aliases)


def apply_to(
    state_dict: StateDict,
    scheme: Scheme,
    dim: KeptDims,
    selection: Selection,
    ops: Sequence[WeightedOp] | None,
    memo: Memo,
) -> Outcome:
    """Split the chosen weights of a state dict; the parts stand where the weight stood."""
    tensors = state_dict.tensors
    outcome = Outcome(dict(state_dict.entries))
    stems = None if ops is None else [name for op in ops for name in (op.fqn, *op.aliases)]
    groups = [group for group in part_groups(tensors, stems) if group.scheme is not None]
    outcome.skipped += [_already(group, scheme, state_dict) for group in groups]
    parted = {key for group in groups for key in group.keys.values()}
    free = {name: value for name, value in tensors.items() if name not in parted}
    stray = _stray(tensors, scheme)
    chosen = []
    for op in plain_weights(free) if ops is None else ops:
        against = selection.reason_against(located(op, state_dict)) or stray
        for own in tied_here(op, free):
            candidate = against or _candidate(own, free, scheme, dim, state_dict)
            if isinstance(candidate, Candidate):
                chosen.append(candidate)
            else:
                outcome.skipped.append(Skipped(state_dict.fqn(own.fqn), ", ".join(op.ops), candidate))
    _split_all(chosen, scheme, state_dict, outcome, memo)
    return outcome


def _stray(tensors: Mapping[str, Tensor], scheme: Scheme) -> str | None:
    """Return why a scheme that spans all weights cannot be applied: the parts of some are there without the rest."""
    groups = part_groups(tensors) if scheme.shared else ()
    keys = [key for group in groups if group.scheme and group.scheme.name == scheme.name for key in group.keys.values()]
    return f"the key {keys[0]!r} is in the way" if keys else None


def located(op: WeightedOp, state_dict: StateDict) -> WeightedOp:
    """Return ``op`` under its full names too, so that globs may give the path to the state dict or leave it out."""
    if not state_dict.path:
        return op
    return replace(op, aliases=(*op.aliases, *(state_dict.fqn(name) for name in (op.fqn, *op.aliases))))


def tied_here(op: WeightedOp, tensors: Mapping[str, Tensor]) -> list[WeightedOp]:
    """Return ``op`` once for each tensor of its names: what a model ties, a file may hold several times."""
    present = {name: tensors[name] for name in (op.fqn, *op.aliases) if name in tensors}
    return [replace(op, fqn=tied.fqn, aliases=tied.aliases) for tied in group_ties(present)]


def _already(group: PartGroup, scheme: Scheme, state_dict: StateDict) -> Skipped:
    assert group.scheme is not None
    same = group.scheme.name == scheme.name
    reason = f"already under {group.scheme.name}" if same else f"under {group.scheme.name}; fold that first"
    return Skipped(state_dict.fqn(group.stem), "", reason, already=same)


def _candidate(
    op: WeightedOp,
    tensors: Mapping[str, Tensor],
    scheme: Scheme,
    dim: KeptDims,
    state_dict: StateDict,
) -> Candidate | str:
    """Return the weight ready to be split, or the reason why it is not."""
    weight = tensors[op.fqn].detach()
    # a part of another scheme is in the way too: among its keys, nobody could tell the new parts again
    taken = [f"{name}_{part}" for name in (op.fqn, *op.aliases) for part in part_names()]
    taken = [key for key in (*taken, *scheme.shared) if key in state_dict.entries]
    if reason := unsplittable(weight, op):
        return reason
    if taken:
        return f"the key {taken[0]!r} is in the way"
    try:
        return Candidate(op, weight, WeightSpec.of(weight, meant_dims(scheme, dim, op)))
    except OptionError as error:
        return str(error)


def unsplittable(weight: Tensor, op: WeightedOp) -> str | None:
    """Return why no scheme can split a weight, or None."""
    if tuple(weight.shape) != op.shape:
        return f"has shape {tuple(weight.shape)}, but {op.shape} in the model"
    if weight.dtype not in DTYPES:
        return f"has dtype {str(weight.dtype).removeprefix('torch.')}, which no scheme can compute with"
    if weight.is_meta or weight.numel() == 0:
        return "has no data"
    return None if _finite(weight) else reason_for_difference(weight)


def meant_dims(scheme: Scheme, dim: KeptDims, op: WeightedOp) -> tuple[int, ...]:
    """Return the kept dims that the user means.

    Raises:
        OptionError: the weight has no such dim, or none is known.
    """
    if isinstance(dim, tuple):
        if any(each >= len(op.shape) for each in dim):
            raise OptionError(f"has shape {op.shape}, and so no dims {dim} to keep")
        return dim
    meant: Any = scheme.default_dim if dim == "default" else dim
    if meant == "output" and op.output_dims is None:
        raise OptionError(
            "which dim is the output cannot be told without a model; give one (--model), or a dim (--dim 0)"
        )
    return kept_dims(meant, op)


def _split_all(chosen: list[Candidate], scheme: Scheme, state_dict: StateDict, outcome: Outcome, memo: Memo) -> None:
    """Split all candidates, and prove each: one that does not come back is left alone, and the rest split anew."""
    # what all weights have in common must not depend on the order of the keys, which not every container keeps
    chosen = sorted(chosen, key=lambda candidate: candidate.op.fqn) if scheme.shared else chosen
    while chosen:
        split = [_split(candidate, scheme, memo) for candidate in chosen]
        own, errors = [parts for parts, _ in split], [error for _, error in split]
        specs = [candidate.spec for candidate in chosen]
        shared = scheme.split_shared(own, specs)
        if scheme.shared:  # only with what all weights have in common can the parts be composed
            common = {**scheme.gather(own, specs), **shared}
            errors = [
                change(candidate.weight, scheme.compose({**parts, **common}, candidate.spec))
                for candidate, parts in zip(chosen, own, strict=True)
            ]
        lost = [candidate for candidate, error in zip(chosen, errors, strict=True) if scheme.preserving and error]
        for candidate in lost:
            fqn, ops = state_dict.fqn(candidate.op.fqn), ", ".join(candidate.op.ops)
            outcome.skipped.append(Skipped(fqn, ops, reason_for_difference(candidate.weight)))
        if not lost or not scheme.shared:
            done = [entry for entry in zip(chosen, own, errors, strict=True) if entry[0] not in lost]
            _record(done, shared if done else {}, scheme, state_dict, outcome)
            return
        chosen = [candidate for candidate in chosen if candidate not in lost]


def _split(candidate: Candidate, scheme: Scheme, memo: Memo) -> tuple[dict[str, Tensor], float]:
    """Return the parts of a weight, the large ones deferred, and how far they are from giving it back."""
    weight, spec = candidate.weight, candidate.spec
    key = (storage_key(weight), spec.kept)
    if key not in memo:
        memo[key] = _split_by_channels(candidate, scheme) or _split_at_once(candidate, scheme)
    return memo[key]


def _split_at_once(candidate: Candidate, scheme: Scheme) -> tuple[dict[str, Tensor], float]:
    weight, spec = candidate.weight, candidate.spec
    memory.about_to_make(weight.numel() * weight.element_size())
    parts = scheme.split(weight, spec)
    error = 0.0 if scheme.shared else change(weight, scheme.compose(parts, spec))
    return lean(weight, {part: parts[part] for part in scheme.parts}, lambda: scheme.split(weight, spec)), error


def _split_by_channels(candidate: Candidate, scheme: Scheme) -> tuple[dict[str, Tensor], float] | None:
    """Return the same, made of a few channels at a time; None where not all of them have themselves as direction."""
    weight, spec = candidate.weight, candidate.spec
    if scheme.magnitude is None or scheme.shared or not scheme.channelwise(spec):
        return None
    magnitudes = []
    for rows in slices(weight):
        own = weight[rows]
        some = replace(spec, shape=tuple(own.shape))
        parts = scheme.split(own, some)
        if not (bits_equal(parts[scheme.direction], own) and bits_equal(scheme.compose(parts, some), own)):
            return None
        magnitudes.append(parts[scheme.magnitude])
    direction = defer(lambda: weight, weight, [weight])
    (magnitude,) = lean(weight, {scheme.magnitude: torch.cat(magnitudes)}, lambda: scheme.split(weight, spec)).values()
    return {part: direction if part == scheme.direction else magnitude for part in scheme.parts}, 0.0


def lean(weight: Tensor, parts: Mapping[str, Tensor], split: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parts of a weight in a form that holds little memory.

    Args:
        weight: the weight.
        parts: its parts.
        split: makes them anew.
    """

    def made(part: str, tensor: Tensor) -> Tensor:
        if small_beside(tensor, weight):
            return tensor
        if tensor.stride() == weight.stride() and bits_equal(tensor, weight):
            return defer(lambda: weight, tensor, [weight])
        return defer(lambda: split()[part], tensor, [weight])

    return {part: made(part, tensor) for part, tensor in parts.items()}


def _finite(weight: Tensor) -> bool:
    # a sum is finite only if all its terms are, and takes no memory; that of large terms may overflow
    return bool(weight.sum().isfinite()) or bool(weight.isfinite().all())


def change(weight: Tensor, composed: Tensor) -> float:
    """Return the largest absolute change of an element; not zero wherever a single bit differs."""
    if bits_equal(weight, composed):
        return 0.0
    largest = float((weight.double() - composed.double()).abs().max())
    return largest if largest > 0 else float("inf") if largest != 0 else 5e-324


def _record(
    done: list[tuple[Candidate, dict[str, Tensor], float]],
    shared: Mapping[str, Tensor],
    scheme: Scheme,
    state_dict: StateDict,
    outcome: Outcome,
) -> None:
    new: dict[str, dict[str, Tensor]] = {}
    for candidate, parts, error in done:
        wrapped = as_entries(parts, like=state_dict.entries[candidate.op.fqn], scheme=scheme)
        for name in candidate.names:
            new[name] = {f"{name}_{part}": tensor for part, tensor in wrapped.items()}
            outcome.manifest[state_dict.fqn(name)] = Entry(scheme, candidate.spec.kept)
        keys = tuple(state_dict.fqn(key) for name in candidate.names for key in new[name])
        keys += tuple(state_dict.fqn(part) for part in shared)
        fqn, ops = state_dict.fqn(candidate.op.fqn), ", ".join(candidate.op.ops)
        outcome.converted.append(Converted(fqn, ops, scheme.name, keys, candidate.spec.dims, "file", error))
    outcome.entries = dict(shared)
    for key, value in state_dict.entries.items():
        outcome.entries.update(new.get(key, {key: value}))


def as_entries(tensors: Mapping[str, Tensor], like: Tensor, scheme: Scheme | None = None) -> dict[str, Tensor]:
    """Return new entries of the kind of the old one: parameters where that was one, save for state."""
    if not isinstance(like, nn.Parameter):
        return dict(tensors)
    state = scheme.state if scheme else frozenset()
    return {
        name: tensor if name in state else nn.Parameter(tensor, requires_grad=like.requires_grad)
        for name, tensor in tensors.items()
    }
