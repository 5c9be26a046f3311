"""Splitting the plain weights of one state dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from wnconvert.checkpoint.content import memory
from wnconvert.checkpoint.content.deferred import defer, slices
from wnconvert.checkpoint.content.difference import bits_equal
from wnconvert.checkpoint.content.keys import PartGroup, part_groups, part_names, plain_weights
from wnconvert.checkpoint.content.optimizer_reset import Change
from wnconvert.checkpoint.content.tree import StateDict, storage_key, substituted
from wnconvert.checkpoint.layout import is_factor
from wnconvert.checkpoint.manifest import Applied
from wnconvert.checkpoint.weights.joining import is_joinable, split_joined
from wnconvert.checkpoint.weights.outcome import (
    KeptDims,
    Memo,
    Outcome,
    as_entries,
    lean,
    left_out,
    located,
    meant_dims,
    tied_here,
    unsplittable,
)
from wnconvert.device import CPU, Device
from wnconvert.errors import OptionError
from wnconvert.fitness import reason_against_change
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.selection import Selection, WeightedOp
from wnconvert.verification import change


@dataclass(frozen=True, eq=False)
class Candidate:
    """A weight that is to be split; each is itself only."""

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
    device: Device = CPU,
) -> Outcome:
    """Split the chosen weights of a state dict; the parts stand where the weight stood."""
    tensors = state_dict.tensors
    outcome = Outcome(dict(state_dict.entries))
    stems = None if ops is None else [name for op in ops for name in (op.fqn, *op.aliases)]
    groups = [group for group in part_groups(tensors, stems) if group.scheme is not None]
    outcome.skipped += [_already(group, scheme, state_dict, selection) for group in groups]
    parted = {key for group in groups for key in group.keys.values()}
    free = {name: value for name, value in tensors.items() if name not in parted}
    stray = _stray(tensors, scheme)
    chosen = []
    for op in plain_weights(free) if ops is None else ops:
        against = selection.reason_against(located(op, state_dict)) or stray
        if against is None and ops is None and is_factor(op.fqn):
            against = Why.OTHER_SCHEME(adapter="an adapter", way_out="fold it into its base (--adapter)")
        for own in tied_here(op, free):
            candidate = against or _candidate(own, free, scheme, dim, state_dict)
            if isinstance(candidate, Candidate):
                chosen.append(candidate)
            else:
                outcome.skipped.append(Skipped(state_dict.fqn(own.fqn), ", ".join(op.ops), candidate))
    _split_all(chosen, scheme, state_dict, outcome, memo, device)
    return outcome


def _stray(tensors: Mapping[str, Tensor], scheme: Scheme) -> Reason | None:
    """Return why a scheme that spans all weights cannot be applied: the parts of some are there without the rest."""
    groups = part_groups(tensors) if scheme.shared else ()
    keys = [key for group in groups if group.scheme and group.scheme.name == scheme.name for key in group.keys.values()]
    return Why.NAME_TAKEN(key=keys[0]) if keys else None


def _already(group: PartGroup, scheme: Scheme, state_dict: StateDict, selection: Selection) -> Skipped:
    assert group.scheme is not None
    same = group.scheme.name == scheme.name
    why = Why.ALREADY_SPLIT if same else Why.OTHER_SCHEME
    reason = left_out([group.stem], state_dict, selection) or why(scheme=group.scheme.name)
    return Skipped(state_dict.fqn(group.stem), "", reason)


def _candidate(
    op: WeightedOp,
    tensors: Mapping[str, Tensor],
    scheme: Scheme,
    dim: KeptDims,
    state_dict: StateDict,
) -> Candidate | Reason:
    """Return the weight ready to be split, or the reason why it is not."""
    weight = tensors[op.fqn].detach()
    # a part of another scheme is in the way too: among its keys, nobody could tell the new parts again
    taken = [f"{name}_{part}" for name in (op.fqn, *op.aliases) for part in part_names()]
    taken = [key for key in (*taken, *scheme.shared) if key in state_dict.entries]
    if reason := unsplittable(op, state_dict):
        return reason
    if taken:
        return Why.NAME_TAKEN(key=taken[0])
    try:
        return Candidate(op, weight, WeightSpec.of(weight, meant_dims(scheme, dim, op)))
    except OptionError as error:
        return Why.DIM(error=error)


def _split_all(
    chosen: list[Candidate], scheme: Scheme, state_dict: StateDict, outcome: Outcome, memo: Memo, device: Device
) -> None:
    """Split all candidates, and prove each: one that does not come back is left alone, and the rest split anew."""
    # what all weights have in common must not depend on the order of the keys, which not every container keeps
    chosen = sorted(chosen, key=lambda candidate: candidate.op.fqn) if scheme.shared else chosen
    if device.is_cpu:  # the kernels of other devices are chosen by the number of channels
        _split_together(chosen, scheme, memo)
    while chosen:
        split = [_split(candidate, scheme, memo, device) for candidate in chosen]
        own, errors = [parts for parts, _ in split], [error for _, error in split]
        specs = [candidate.spec for candidate in chosen]
        shared = device.run(scheme.split_shared, own, specs)
        if scheme.shared:  # only with what all weights have in common can the parts be composed
            common = {**device.run(scheme.gather, own, specs), **shared}
            errors = [
                change(candidate.weight, device.run(scheme.compose, {**parts, **common}, candidate.spec))
                for candidate, parts in zip(chosen, own, strict=True)
            ]
        lost: set[Candidate] = set()
        for candidate, error in zip(chosen, errors, strict=True):
            if reason := reason_against_change(candidate.weight, scheme, error):
                lost.add(candidate)
                fqn, ops = state_dict.fqn(candidate.op.fqn), ", ".join(candidate.op.ops)
                outcome.skipped.append(Skipped(fqn, ops, reason))
        if not lost or not scheme.shared:
            done = [entry for entry in zip(chosen, own, errors, strict=True) if entry[0] not in lost]
            _record(done, shared if done else {}, scheme, state_dict, outcome, device)
            return
        chosen = [candidate for candidate in chosen if candidate not in lost]


def _split_together(chosen: Sequence[Candidate], scheme: Scheme, memo: Memo) -> None:
    """Split the small weights, those of one kind at once; what does not come back so is left to be split alone."""
    alike: dict[WeightSpec, list[Candidate]] = defaultdict(list)
    for candidate in chosen:
        if is_joinable(candidate.weight, scheme, candidate.spec):
            alike[candidate.spec].append(candidate)
    for spec, several in alike.items():
        for index, parts in split_joined([candidate.weight for candidate in several], scheme, spec):
            memo.setdefault((storage_key(several[index].weight), spec.kept), (parts, 0.0))


def _split(candidate: Candidate, scheme: Scheme, memo: Memo, device: Device) -> tuple[dict[str, Tensor], float]:
    """Return the parts of a weight, the large ones deferred, and how far they are from giving it back."""
    weight, spec = candidate.weight, candidate.spec
    key = (storage_key(weight), spec.kept)
    if key not in memo:
        by_channels = _split_by_channels(candidate, scheme) if device.is_cpu else None
        memo[key] = by_channels or _split_at_once(candidate, scheme, device)
    return memo[key]


def _split_at_once(candidate: Candidate, scheme: Scheme, device: Device) -> tuple[dict[str, Tensor], float]:
    weight, spec = candidate.weight, candidate.spec
    memory.about_to_make(weight.numel() * weight.element_size())
    split = partial(device.run, scheme.split, weight, spec)
    parts = split()
    error = 0.0 if scheme.shared else change(weight, device.run(scheme.compose, parts, spec))
    return lean(weight, {part: parts[part] for part in scheme.parts}, split), error


def _split_by_channels(candidate: Candidate, scheme: Scheme) -> tuple[dict[str, Tensor], float] | None:
    """Return the same, made of a few channels at a time; None where not all of them have themselves as direction."""
    weight, spec = candidate.weight, candidate.spec
    if scheme.magnitude is None or scheme.shared or not scheme.channelwise(spec):
        return None
    if len(blocks := slices(weight)) < 2:  # then nothing is gained
        return None
    magnitudes = []
    for rows in blocks:
        own = weight[rows]
        some = replace(spec, shape=tuple(own.shape))
        parts = scheme.split(own, some)
        if not (bits_equal(parts[scheme.direction], own) and bits_equal(scheme.compose(parts, some), own)):
            return None
        magnitudes.append(parts[scheme.magnitude])
    direction = defer(lambda: weight, weight, [weight])
    (magnitude,) = lean(weight, {scheme.magnitude: torch.cat(magnitudes)}, lambda: scheme.split(weight, spec)).values()
    return {part: direction if part == scheme.direction else magnitude for part in scheme.parts}, 0.0


def _record(
    done: list[tuple[Candidate, dict[str, Tensor], float]],
    shared: Mapping[str, Tensor],
    scheme: Scheme,
    state_dict: StateDict,
    outcome: Outcome,
    device: Device,
) -> None:
    new: dict[str, dict[str, Tensor]] = {}
    for candidate, parts, error in done:
        wrapped = as_entries(parts, like=state_dict.entries[candidate.op.fqn], scheme=scheme)
        for name in candidate.names:
            new[name] = {f"{name}_{part}": tensor for part, tensor in wrapped.items()}
            outcome.manifest[state_dict.fqn(name)] = Applied(scheme, candidate.spec.kept, device.name)
        keys = tuple(state_dict.fqn(key) for name in candidate.names for key in new[name])
        keys += tuple(state_dict.fqn(part) for part in shared)
        name, trained = candidate.op.fqn, [part for part in parts if part not in scheme.state]
        outcome.parameters.append(Change((name,), tuple(f"{name}_{part}" for part in trained)))
        fqn, ops = state_dict.fqn(candidate.op.fqn), ", ".join(candidate.op.ops)
        spec = candidate.spec
        outcome.converted.append(Converted(fqn, ops, scheme.name, keys, spec.dims, "file", error, spec.kept))
    outcome.parameters += [Change((), tuple(shared))] if shared else []
    outcome.entries = {**shared, **substituted(state_dict.entries, new)}
