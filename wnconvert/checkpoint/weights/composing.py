"""Folding what other software made: the weights of one state dict whose layout `wnconvert.checkpoint.layout` knows.

What wnconvert itself split, and says so in the manifest, is folded by its scheme; all else by the calls of the module
that the keys belong to, so that the bits are those that the module computes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from wnconvert.checkpoint.content.deferred import defer, shape_of
from wnconvert.checkpoint.content.names import is_weight_name
from wnconvert.checkpoint.content.tree import StateDict, storage_key
from wnconvert.checkpoint.layout import LAYOUTS, Group, Layout, Reading, compose, direction, find_groups
from wnconvert.checkpoint.manifest import Entry, Folded, Manifest
from wnconvert.checkpoint.weights.outcome import Memo, as_entries, located
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Skipped
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec
from wnconvert.selection import Selection, WeightedOp


@dataclass(frozen=True)
class Wanted:
    """What to fold.

    Attributes:
        selection: which weights.
        scheme: only this scheme; then hooks are left to it, for their keys are its parts.
        ops: the weighted ops of the model by name, if there is one.
        only: full names of weights; nothing else is folded.
        recorded: the manifest of the file.
        reading: what the file does not say.
    """

    selection: Selection = field(default_factory=Selection)
    scheme: Scheme | None = None
    ops: Mapping[str, WeightedOp] | None = None
    only: Collection[str] | None = None
    recorded: Manifest = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)


@dataclass
class Composed:
    """What became of the groups.

    Attributes:
        entries: what stands in the place of each key: a name and a value, an empty name for nothing.
        claimed: all keys that belong to some group, folded or not.
        converted: one for each weight that was folded.
        skipped: one for each that was not.
        guessed: schemes with options that the keys do not show.
        folded: what each weight was, by full name, save for what wnconvert split.
    """

    entries: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    converted: list[Converted] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    guessed: dict[str, Scheme] = field(default_factory=dict)
    folded: dict[str, Folded] = field(default_factory=dict)


def compose_in(state_dict: StateDict, wanted: Wanted, memo: Memo) -> Composed:
    """Compose the chosen weights of a state dict that are in a known layout, each to be computed when needed."""
    tensors = state_dict.tensors
    reading = wanted.reading
    named = is_weight_name if wanted.ops is None else wanted.ops.__contains__
    done = Composed()
    found = find_groups(tensors, dim=reading.dim, named=named, presets=reading.presets)
    groups = [group for group in found if not _left_to_schemes(group, state_dict, wanted)]
    for same in _tied(groups, tensors):
        done.claimed.update(key for group in same for key in group.keys.values())
        first = same[0]
        if reason := _reason_against(same, state_dict, wanted):
            done.skipped.append(Skipped(state_dict.fqn(first.stem), _ops(first, wanted), reason))
            continue
        weight = _weight(first, state_dict, wanted, memo)
        for group in same:
            done.entries.update(_entries(group, state_dict, weight))
            if state_dict.fqn(group.stem) not in wanted.recorded:
                name, _ = done.entries[next(iter(group.keys.values()))]
                done.folded[state_dict.fqn(name)] = _was(group, wanted)
        keys = tuple(state_dict.fqn(key) for group in same for key in group.keys.values())
        fqn, scheme = state_dict.fqn(first.stem), str(first.scheme)
        dims = _dims(first, tuple(weight.shape))
        done.converted.append(Converted(fqn, _ops(first, wanted), scheme, keys, dims, "file"))
        if LAYOUTS.get(first.layout).api == "hook" and fqn not in wanted.recorded and scheme in SCHEMES:
            done.guessed[scheme] = SCHEMES.get(scheme)()
    return done


def _left_to_schemes(group: Group, state_dict: StateDict, wanted: Wanted) -> bool:
    """Return whether the keys are the parts of a scheme that the file or the user names."""
    if LAYOUTS.get(group.layout).api != "hook":
        return False
    return wanted.scheme is not None or state_dict.fqn(group.stem) in wanted.recorded


def _tied(groups: list[Group], tensors: Mapping[str, Tensor]) -> list[list[Group]]:
    tied: dict[object, list[Group]] = defaultdict(list)
    for group in groups:
        parts = frozenset((part, storage_key(tensors[key])) for part, key in group.keys.items())
        tied[group.layout, group.kept, group.stack, parts].append(group)
    return list(tied.values())


def _ops(group: Group, wanted: Wanted) -> str:
    return ", ".join(wanted.ops[group.stem].ops) if wanted.ops and group.stem in wanted.ops else ""


def _reason_against(same: list[Group], state_dict: StateDict, wanted: Wanted) -> Reason | None:
    """Return why a weight is not folded, or None."""
    group, names = same[0], [each.stem for each in same]
    if wanted.only is not None and not any(state_dict.fqn(name) in wanted.only for name in names):
        return Why.NOT_CHOSEN()
    recorded = state_dict.fqn(group.stem) in wanted.recorded
    if group.scheme is None or (group.problem and not recorded):
        return group.problem or Why.SCHEME_UNKNOWN()
    if wanted.scheme is not None and wanted.scheme.name != group.scheme:
        return Why.OTHER_SCHEME(scheme=group.scheme, wanted=wanted.scheme.name)
    lead = state_dict.tensors[group.keys[direction(group, _layout(group, wanted))]]
    known = wanted.ops.get(group.stem) if wanted.ops is not None else None
    if wanted.ops is not None and known is None:
        return Why.ABSENT()
    if known is not None and known.shape != tuple(lead.shape):
        return Why.SHAPE(shape=tuple(lead.shape), expected=known.shape)
    op = WeightedOp(group.stem, known.ops if known else (), tuple(lead.shape), lead.dtype, None, tuple(names[1:]))
    if reason := wanted.selection.reason_against(located(op, state_dict)):
        return reason
    own = {key for each in same for key in each.keys.values()}
    taken = [name for name in names if name in state_dict.entries and name not in own]
    return Why.NAME_TAKEN(key=taken[0]) if taken else None


def _layout(group: Group, wanted: Wanted) -> Layout:
    presets = {preset.name: preset for preset in wanted.reading.presets}
    return presets.get(group.layout) or LAYOUTS.get(group.layout)()


def _weight(group: Group, state_dict: StateDict, wanted: Wanted, memo: Memo) -> Tensor:
    """Return the weight, to be computed when needed; a parameter where its direction is one."""
    tensors = state_dict.tensors
    layout = _layout(group, wanted)
    parts = {part: tensors[key].detach() for part, key in group.keys.items()}
    recorded = wanted.recorded.get(state_dict.fqn(group.stem))
    precision = wanted.reading.precision
    own = frozenset((part, storage_key(tensor)) for part, tensor in parts.items())
    lead = direction(group, layout)
    key = (own, group.layout, group.kept, group.stack, recorded)
    if key not in memo:
        composed = partial(compose, group, precision=precision, layout=layout, recorded=recorded)
        made = defer(
            lambda: composed(parts=parts),
            shape_of(parts[lead]),
            list(parts.values()),
            partial(_rows, composed, parts) if _channelwise(group, layout, parts[lead], recorded) else None,
        )
        memo[key] = as_entries({"weight": made}, tensors[group.keys[lead]])["weight"]
    weight: Tensor = memo[key]
    return weight


def _rows(composed: Callable[..., Tensor], parts: Mapping[str, Tensor], rows: slice) -> Tensor:
    return composed(parts={part: tensor[rows] for part, tensor in parts.items()})


def _channelwise(group: Group, layout: Layout, lead: Tensor, recorded: Entry | None) -> bool:
    """Return whether some channels can be composed without the others."""
    if recorded is None:
        return layout.channelwise(group)
    return recorded.scheme.channelwise(WeightSpec.of(lead, recorded.kept))


def _entries(group: Group, state_dict: StateDict, weight: Tensor) -> dict[str, tuple[str, Tensor]]:
    """Return what stands in the place of each key: the weight for the first, and the others without a wrapper."""
    stem = group.stem
    entries: dict[str, tuple[str, Tensor]] = {}
    if prefixes := LAYOUTS.get(group.layout)().unwrapped(stem):
        old, new = prefixes
        tensors = state_dict.tensors
        inner = {key: new + key[len(old) :] for key in state_dict.under(old)}
        if not any(name in tensors for name in inner.values()):
            entries = {key: (name, tensors[key]) for key, name in inner.items()}
            stem = new + stem[len(old) :]
    entries.update(dict.fromkeys(group.keys.values(), ("", weight)))
    entries[next(iter(group.keys.values()))] = (stem, weight)
    return entries


def _was(group: Group, wanted: Wanted) -> Folded:
    layout, scheme = _layout(group, wanted), str(group.scheme)
    torchs = layout.api is not None and scheme in SCHEMES
    return Folded.of(scheme, group.layout, group.kept, SCHEMES.get(scheme)() if torchs else layout)


def _dims(group: Group, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if group.kept is None or "+" in str(group.scheme):
        return None
    return tuple(dim for dim in range(len(shape)) if dim not in group.kept)
