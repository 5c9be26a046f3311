"""What is in parts in a state dict, and which mathematics composes it: for folding and comparing alike.

Keys, shapes and now and then values show which parts belong together: those of a known layout, or those of a scheme.
What composes them is decided by one rule: what the user says counts first, then what the file records, then what is
shown.

A record counts where a weight has the parts of the recorded scheme, in whatever layout. It says options and kept dims,
so the weight has no problem that it would have without. A scheme that the user names composes the parts that it has
itself, as wnconvert and torch's hooks spell them; among other layouts, which compose as their software does, it only
chooses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from wnconvert.checkpoint.content.keys import part_groups
from wnconvert.checkpoint.content.names import is_weight_name
from wnconvert.checkpoint.content.tree import StateDict, storage_key
from wnconvert.checkpoint.layout import (
    LAYOUTS,
    Group,
    Layout,
    Precision,
    direction,
    find_groups,
    resolve_presets,
    without_options,
)
from wnconvert.checkpoint.manifest import Applied, Manifest
from wnconvert.checkpoint.weights.composing import Composer, Composition, by_layout, by_scheme, compose_all, misfit
from wnconvert.checkpoint.weights.outcome import DimOrDefault, Memo
from wnconvert.device import CPU, Device
from wnconvert.errors import OptionError
from wnconvert.fitness import reason_against_part
from wnconvert.reasons import Reason, Why
from wnconvert.scheme import SCHEMES, Scheme, WeightSpec, identify
from wnconvert.selection import Selection, WeightedOp, kept_dims


@dataclass(frozen=True)
class Reading:
    """How to read a checkpoint where it does not say itself.

    Attributes:
        dim: the kept dim, for what does not show it.
        presets: layouts that leave no trace in the keys, or their names.
        precision: of the composition.
        device: where weights are composed.
    """

    dim: DimOrDefault = "default"
    presets: Iterable[str | Layout] = ()
    precision: Precision = "runtime"
    device: Device = CPU

    def __post_init__(self) -> None:
        """Take the presets as layouts, which names only stand for."""
        object.__setattr__(self, "presets", resolve_presets(self.presets))


@dataclass(frozen=True)
class Request(Reading):
    """How to read a state dict, which of its weights to fold, and what the file records.

    Attributes:
        recorded: how weights were split, by full name.
        scheme: only this scheme, with these options.
        ops: the weighted ops of the model by name, if there is one.
        selection: which weights.
        only: full names of weights; no others are meant.
    """

    recorded: Manifest = field(default_factory=dict)
    scheme: Scheme | None = None
    ops: Mapping[str, WeightedOp] | None = None
    selection: Selection = field(default_factory=Selection)
    only: Collection[str] | None = None

    def layout(self, group: Group) -> Layout:
        """Return the layout of a group, with the options that the user gave."""
        named = (each for each in self.presets if isinstance(each, Layout) and each.name == group.layout)
        return next(named, None) or without_options(LAYOUTS.get(group.layout))


#: what composes a weight, but for the kept dims of a scheme; or why nothing does.
_Mathematics: TypeAlias = Scheme | Layout | Reason


@dataclass(frozen=True)
class Parted:
    """A weight in parts.

    Attributes:
        groups: its keys, for each of its names; the layout of what only wnconvert spells so has no name.
        held: its parts by what makes tensors tied.
        by: what composes it, or why nothing does.
        guessed: the scheme whose options nobody says, so that they are taken as default.
        op: the weight as a model knows it, where something composes it.
    """

    groups: tuple[Group, ...]
    held: Hashable
    by: _Mathematics
    guessed: Scheme | None = None
    op: WeightedOp | None = None


def compose_in(
    state_dict: StateDict,
    request: Request,
    memo: Memo,
    against: Callable[[Parted], Reason | None] = lambda parted: None,
) -> Iterator[tuple[Parted | Composition, Tensor | Reason]]:
    """Yield the weights of a state dict that are in parts: to be computed when needed, or why they cannot be.

    Args:
        state_dict: where they are.
        request: what the user says of them, and what the file records.
        memo: weights already made.
        against: says why a weight is not wanted.
    """
    wanted: list[Composition] = []
    refused: dict[Scheme, str] = {}
    for parted in find_parted(state_dict, request):
        found = against(parted) or _composition(parted, state_dict, request)
        if isinstance(found, Composition):
            wanted.append(found)
            continue
        yield parted, found
        if isinstance(parted.by, Scheme):
            refused.setdefault(parted.by, state_dict.fqn(parted.groups[0].stem))
    yield from compose_all(state_dict, wanted, refused, request.precision, memo, request.device)


def find_parted(state_dict: StateDict, request: Request) -> list[Parted]:
    """Return all of them, tied ones once; last those that schemes compose."""
    order = {key: index for index, key in enumerate(state_dict.tensors)}
    found: list[tuple[bool, int, Parted]] = []
    for held, groups in _tied(_groups(state_dict, request), state_dict.tensors):
        recorded = request.recorded.get(state_dict.fqn(groups[0].stem))
        by, guessed = _mathematics(groups[0], recorded, request)
        op = None if isinstance(by, Reason) else _op(groups, by, state_dict, request)
        parted = Parted(tuple(groups), held, by, guessed, op)
        first = min(order[key] for key in groups[0].keys.values())
        found.append((isinstance(parted.by, Scheme) or not groups[0].layout, first, parted))
    return [parted for *_, parted in sorted(found, key=lambda each: each[:2])]


def _op(groups: Sequence[Group], by: Scheme | Layout, state_dict: StateDict, request: Request) -> WeightedOp:
    group, *others = groups
    part = direction(group, by) if isinstance(by, Layout) else by.direction
    lead, known = state_dict.tensors[group.keys[part]], (request.ops or {}).get(group.stem)
    ops, output_dims = (known.ops, known.output_dims) if known else ((), None)
    aliases = tuple([other.stem for other in others])
    return WeightedOp(group.stem, ops, tuple(lead.shape), lead.dtype, output_dims, aliases)


def _groups(state_dict: StateDict, request: Request) -> list[Group]:
    """Return the groups of keys; without a model, names that only the record says are those of weights count too."""
    tensors, ops, prefix = state_dict.tensors, request.ops, state_dict.fqn("")
    dim = "default" if request.dim == "output" else request.dim
    named = is_weight_name if ops is None else ops.__contains__
    groups = find_groups(tensors, dim=dim, named=named, presets=request.presets)
    claimed = {key for group in groups for key in group.keys.values()}
    rest = {key: tensor for key, tensor in tensors.items() if key not in claimed}
    own = part_groups(rest, ops)
    if ops is None:
        names = {fqn[len(prefix) :] for fqn in request.recorded if fqn.startswith(prefix)}
        own += part_groups(rest, names.difference(group.stem for group in own))
    return [*groups, *(Group(each.stem, "", None, each.keys) for each in own)]


def _tied(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> list[tuple[Hashable, list[Group]]]:
    """Return the groups of each weight, and what tells its parts from those of others."""
    tied: dict[tuple[Hashable, ...], list[Group]] = defaultdict(list)
    for group in groups:
        parts = frozenset((part, storage_key(tensors[key])) for part, key in group.keys.items())
        tied[parts, group.layout, group.kept, group.stack].append(group)
    return [(key[0], same) for key, same in tied.items()]


def _mathematics(group: Group, recorded: Applied | None, request: Request) -> tuple[_Mathematics, Scheme | None]:
    """Return what composes a weight, or why nothing does; and the scheme whose options are guessed."""
    asked, parts = request.scheme, frozenset(group.keys)
    hook = not group.layout or LAYOUTS.get(group.layout).api == "hook"
    if hook and asked is not None:
        return (asked if parts == frozenset(asked.parts) else _unknown(group, asked.name)), None
    known = recorded.scheme if recorded is not None and recorded.is_of(parts) else None
    if known is None and not group.layout:
        shown = identify(parts)
        return shown or _unknown(group, "any scheme"), shown
    if known is None and (group.scheme is None or group.problem):
        return group.problem or Why.SCHEME_UNKNOWN(), None
    name = known.name if known else str(group.scheme)
    if asked is not None and asked.name != name:
        return Why.OTHER_SCHEME(scheme=name, wanted=asked.name), None
    if known is not None:
        return known, None
    return request.layout(group), SCHEMES.get(name)() if hook and name in SCHEMES else None


def _unknown(group: Group, scheme: str) -> Reason:
    return Why.SCHEME_UNKNOWN(parts=" and ".join(map(repr, group.keys)), scheme=scheme)


def _composition(parted: Parted, state_dict: StateDict, request: Request) -> Composition | Reason:
    """Return how a weight is composed, with all that must be known for it; or the reason why it cannot be."""
    if isinstance(parted.by, Reason):
        return parted.by
    op, group = parted.op, parted.groups[0]
    assert op is not None
    composer = (
        by_layout(group, parted.by)
        if isinstance(parted.by, Layout)
        else _by_scheme(parted.by, op, group, state_dict, request)
    )
    return (
        composer
        if isinstance(composer, Reason)
        else Composition(op, parted.groups, parted.held, composer, parted.guessed)
    )


def _by_scheme(
    scheme: Scheme, op: WeightedOp, group: Group, state_dict: StateDict, request: Request
) -> Composer | Reason:
    """Return a scheme with the facts of a weight, or why its parts are none of that."""
    tensors = state_dict.tensors
    parts = {part: tensors[key] for part, key in group.keys.items()}
    if missing := [name for name in scheme.shared if name not in tensors]:
        return Why.PART_MISSING(part=missing[0])
    for part, tensor in {**parts, **{name: tensors[name] for name in scheme.shared}}.items():
        if reason := reason_against_part(part, tensor):
            return reason
    if len({tensor.dtype for tensor in parts.values()}) > 1:
        return Why.DTYPE()
    magnitude, weight = parts.get(scheme.magnitude or ""), parts[scheme.direction]
    if magnitude is not None and magnitude.ndim not in (0, weight.ndim):
        return misfit(parts, "; a magnitude has no dims or as many as the weight")
    try:
        spec = WeightSpec.of(weight, _kept(op, parts, scheme, request.recorded.get(state_dict.fqn(op.fqn)), request))
    except OptionError as error:
        return Why.DIM(error=error)
    if magnitude is not None and tuple(magnitude.shape) != spec.kept_shape:
        return misfit(parts)  # torch's own kernel would not notice, and read beyond the end
    return by_scheme(scheme, spec)


def _kept(
    op: WeightedOp, parts: Mapping[str, Tensor], scheme: Scheme, recorded: Applied | None, request: Request
) -> tuple[int, ...]:
    """Return the kept dims of what a scheme composes."""
    if request.dim != "default":
        return kept_dims(request.dim, op)
    if recorded is not None and recorded.scheme == scheme:
        return recorded.kept
    if scheme.shared:
        return ()  # what spans all weights reduces every dim
    if len(op.shape) < 2:
        return scheme.infer_kept(parts, kept_dims(0, op))
    first, second = scheme.infer_kept(parts, (0,)), scheme.infer_kept(parts, (1,))
    if first != second:
        raise OptionError("its parts do not show the kept dim; give it (--dim)")
    return first
