"""Unfolding: the plain weights of one state dict spelled as the parts of a layout, so that its own modules load them.

A scheme can split any weight; a layout of other software only those that its module can compute. Each weight is split,
found again among the new keys as a reader would find it, and composed by the calls of the live module. What comes back
with other bits is converted with the error in the report where that is rounding, and skipped where it is more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wnconvert.checkpoint.content.keys import group_ties, is_matrix, part_groups
from wnconvert.checkpoint.content.optimizer_reset import Change
from wnconvert.checkpoint.content.tree import StateDict, storage_key, substituted
from wnconvert.checkpoint.layout import LAYOUTS, DimHint, Group, Layout, find_groups
from wnconvert.checkpoint.weights.composing import by_layout
from wnconvert.checkpoint.weights.outcome import (
    DimOrDefault,
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
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import SCHEMES
from wnconvert.selection import Selection, WeightedOp
from wnconvert.verification import change

#: what may be a part of a weight, without the name of its module.
_NEAR = re.compile(r"[^.]*|parametrizations\..*", re.DOTALL)
#: what counts as rounding: the largest error of an element, in ULPs of the largest element of the weight.
_ROUNDING = {torch.float64: 64.0, torch.float32: 8.0, torch.bfloat16: 4.0, torch.float16: 4.0}


@dataclass(frozen=True)
class Unfolding:
    """What to unfold.

    Attributes:
        layout: the layout to write.
        scheme: name of one of the schemes that it `Layout.spells`.
        dim: the kept dim.
        selection: which weights.
        ops: the weighted ops of the model, if there is one.
        like: parts that weights had, by name, whose state is to come back.
        device: where weights are computed.
    """

    layout: Layout
    scheme: str
    dim: DimOrDefault = "default"
    selection: Selection = field(default_factory=Selection)
    ops: Sequence[WeightedOp] | None = None
    like: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    device: Device = CPU

    def split(self, fqn: str, weight: Tensor, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the parts of a weight."""
        run, layout = self.device.run, self.layout
        like = self.like.get(fqn)
        parts = None if like is None else run(layout.restored, weight, self.scheme, kept, dict(like))
        return parts or run(layout.split, weight, self.scheme, kept)


@dataclass(frozen=True)
class _Split:
    """A weight that the layout holds: its parts, the reduced and the kept dims, and how far it comes back."""

    parts: Mapping[str, Tensor]
    dims: tuple[int, ...] | None
    kept: tuple[int, ...] | None
    error: float


def hint_of(layout: Layout, scheme: str, dim: DimOrDefault) -> DimHint:
    """Return what the user must say again when the unfolded file is folded: the dim, where the parts do not show it."""
    return dim if layout.api and scheme == "spectral_norm" and dim != "output" else "default"


def unfold_in(state_dict: StateDict, wanted: Unfolding, memo: Memo) -> Outcome:
    """Split the chosen weights of a state dict; the parts stand where the weight stood."""
    outcome = Outcome(dict(state_dict.entries))
    free = _free(state_dict, wanted, outcome)
    named = {name: tensor for name, tensor in free.items() if wanted.layout.named(name) and is_matrix(tensor)}
    new: dict[str, dict[str, Tensor]] = {}
    renamed: dict[str, str] = {}
    for op in group_ties(named) if wanted.ops is None else wanted.ops:
        against = wanted.selection.reason_against(located(op, state_dict))
        for own in tied_here(op, free):
            split = against or _split(own, free, wanted, state_dict, memo)
            if isinstance(split, Reason):
                outcome.skipped.append(Skipped(state_dict.fqn(own.fqn), ", ".join(own.ops), split))
                continue
            keys: list[str] = []
            for name in (own.fqn, *own.aliases):
                new[name] = _entries(name, split, wanted, state_dict)
                renamed.update(_wrapped(name, wanted.layout, state_dict))
                keys += new[name]
            outcome.parameters.append(Change((own.fqn,), _trained(own.fqn, wanted)))
            dotted = tuple(map(state_dict.fqn, keys))
            fqn = state_dict.fqn(own.fqn)
            outcome.converted.append(
                Converted(fqn, ", ".join(own.ops), wanted.scheme, dotted, split.dims, "file", split.error, split.kept)
            )
    moved = {key: {name: state_dict.entries[key]} for key, name in renamed.items()}
    outcome.entries = substituted(state_dict.entries, moved | new)
    return outcome


def _trained(stem: str, wanted: Unfolding) -> tuple[str, ...]:
    """Return the keys of the parts that are parameters of a model."""
    layout, scheme = wanted.layout, wanted.scheme
    keys = {part: layout.spell(stem, scheme, part) for part in layout.spells[scheme]}
    return layout.trained(Group(stem, layout.name, scheme, keys))


def _free(state_dict: StateDict, wanted: Unfolding, outcome: Outcome) -> dict[str, Tensor]:
    """Return the tensors that are no parts, and report the others."""
    tensors = state_dict.tensors
    taken: set[str] = set()
    for group in find_groups(tensors):
        same = group.layout in (wanted.layout.name, wanted.layout.seen_as)
        first = "migrate it" if wanted.layout.api and LAYOUTS.get(group.layout).api else "fold that first"
        reason = Why.OTHER_SCHEME(layout=group.layout, way_out=first)
        if same:
            reason = Why.ALREADY_SPLIT(form=f"in layout {wanted.layout.name}")
        elif group.scheme is None:
            reason = group.problem or reason
        reason = left_out([group.stem], state_dict, wanted.selection) or reason
        outcome.skipped.append(Skipped(state_dict.fqn(group.stem), "", reason))
        taken.update(group.keys.values())
    for parts in part_groups({key: tensor for key, tensor in tensors.items() if key not in taken}):
        if parts.scheme is not None:
            reason = Why.OTHER_SCHEME(scheme=parts.scheme.name)
            reason = left_out([parts.stem], state_dict, wanted.selection) or reason
            outcome.skipped.append(Skipped(state_dict.fqn(parts.stem), "", reason))
            taken.update(parts.keys.values())
    return {key: tensor for key, tensor in tensors.items() if key not in taken}


def _split(
    op: WeightedOp, tensors: Mapping[str, Tensor], wanted: Unfolding, state_dict: StateDict, memo: Memo
) -> _Split | Reason:
    """Return the parts of a weight, or why the layout cannot hold it."""
    layout, weight = wanted.layout, tensors[op.fqn].detach()
    if reason := unsplittable(op, state_dict) or _in_the_way(op, wanted, state_dict):
        return reason
    try:
        kept = meant_dims(SCHEMES.get(wanted.scheme)(), wanted.dim, op) if layout.api else ()
        if (key := (storage_key(weight), kept, op.fqn)) not in memo:
            memo[key] = _proved(op.fqn, weight, kept, wanted)
    except OptionError as error:
        return Why.DIM(error=error)
    split = memo[key]
    if isinstance(split, Reason):
        return split
    strays = [stray for name in (op.fqn, *op.aliases) for stray in _strays(name, split, wanted, state_dict)]
    return Why.NAME_TAKEN(stray=strays[0]) if strays else split


def _in_the_way(op: WeightedOp, wanted: Unfolding, state_dict: StateDict) -> Reason | None:
    layout, entries = wanted.layout, state_dict.entries
    for name in (op.fqn, *op.aliases):
        keys = [layout.spell(name, wanted.scheme, part) for part in layout.spells[wanted.scheme]]
        renamed = _wrapped(name, layout, state_dict)
        if taken := [key for key in (*keys, *renamed.values()) if key in entries and key != name]:
            return Why.NAME_TAKEN(key=taken[0])
        module = name[: len(name) - len(name.rpartition(".")[2])]
        inner = next((key for key in renamed if "." in key[len(module) :]), None)
        if inner:
            return Why.LAYOUT(inner=inner, layout=layout.title)
    return None


def _proved(fqn: str, weight: Tensor, kept: tuple[int, ...], wanted: Unfolding) -> _Split | Reason:
    """Split a weight, and compose it from the new keys as whoever reads them does."""
    layout, scheme = wanted.layout, wanted.scheme
    unlike = Why.LAYOUT(layout=layout.title)
    if not layout.api and not layout.named(fqn):
        return unlike
    parts = wanted.split(fqn, weight, kept)
    keys = {layout.spell(fqn, scheme, part): parts[part] for part in layout.spells[scheme]}
    groups = find_groups(keys, dim=hint_of(layout, scheme, wanted.dim), presets=(layout,), named=lambda _: True)
    if [(group.stem, group.layout) for group in groups] != [(layout.wrapped(fqn), layout.name)]:
        return unlike
    (group,) = groups
    if group.problem:
        return group.problem
    composed = by_layout(group, layout).weight(
        {part: keys[key] for part, key in group.keys.items()}, device=wanted.device
    )
    error = change(weight, composed)
    largest = float(weight.abs().max())
    ulps = error / math.ldexp(torch.finfo(weight.dtype).eps, math.frexp(largest)[1] - 1) if largest else error
    if not ulps <= _ROUNDING[weight.dtype]:
        return layout.unheld(weight, scheme, kept)
    dims = None if group.kept is None else tuple(dim for dim in range(weight.ndim) if dim not in group.kept)
    return _Split(lean(weight, parts, lambda: wanted.split(fqn, weight, kept)), dims, group.kept, error)


def _strays(name: str, split: _Split, wanted: Unfolding, state_dict: StateDict) -> list[str]:
    """Return the keys of a weight's module that whoever reads the new keys would take for parts too."""
    layout, scheme = wanted.layout, wanted.scheme
    stem = layout.wrapped(name)
    module = stem.removesuffix(name.rpartition(".")[2])
    own = {layout.spell(name, scheme, part): split.parts[part] for part in layout.spells[scheme]}
    renamed = _wrapped(name, layout, state_dict)
    outer = name.removesuffix(name.rpartition(".")[2])
    others = {renamed.get(key, key): state_dict.tensors[key] for key in state_dict.under(outer) if key != name}
    inside = {key: tensor for key, tensor in others.items() if key.startswith(module)}
    near = {key: tensor for key, tensor in inside.items() if _NEAR.fullmatch(key[len(module) :])}
    groups = find_groups({**near, **own}, presets=(layout,), named=lambda _: True)
    return [key for group in groups if group.stem == stem for key in group.keys.values() if key not in own]


def _entries(name: str, split: _Split, wanted: Unfolding, state_dict: StateDict) -> dict[str, Tensor]:
    """Return the new entries of one name of a weight; parameters where it was one, save for state."""
    scheme = SCHEMES.get(wanted.scheme)()
    wrapped = as_entries(split.parts, like=state_dict.entries[name], scheme=scheme)
    return {
        wanted.layout.spell(name, wanted.scheme, part): wrapped[part] for part in wanted.layout.spells[wanted.scheme]
    }


def _wrapped(name: str, layout: Layout, state_dict: StateDict) -> dict[str, str]:
    """Return the new names of all that is in the module of a weight, if the layout wraps it in another."""
    leaf = name.rpartition(".")[2]
    old, new = (each.removesuffix(leaf) for each in (name, layout.wrapped(name)))
    return {} if old == new else {key: new + key[len(old) :] for key in state_dict.under(old) if key != name}
