"""What names and shapes alone say of the weights of a state dict, without torch: for `inspect`, in both of its ways."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from wnconvert.checkpoint.content.names import group_keys, longest_first
from wnconvert.checkpoint.content.shapes import Shapes, fitting_dims, kept_dims
from wnconvert.checkpoint.inspecting.spellings import Spelled, spelled

#: kept dims by the name of the weight, as the file records them.
Recorded: TypeAlias = Mapping[str, tuple[int, ...]]

#: what torch's hooks call their parts.
_HOOKS = {frozenset({"g", "v"}): "weight_norm_hook", frozenset({"orig", "u", "v"}): "spectral_norm_hook"}


@dataclass(frozen=True)
class SchemeFacts:
    """What there is to know of a scheme without running it.

    Attributes:
        name: its name.
        variants: the sets of part names that it may have.
        telling: its magnitude, if it has one, and its direction.
    """

    name: str
    variants: tuple[tuple[str, ...], ...]
    telling: tuple[str | None, str]


@dataclass(frozen=True)
class Survey:
    """The weights in a state dict that are not plain.

    Attributes:
        found: all of them.
        taken: their keys; those of no known scheme only where a layout claims them.
        telling: keys whose zeros and NaNs are those of a weight: magnitudes and directions.
        spared: keys that would be gone after folding.
        recorded: how many of them the file records.
    """

    found: tuple[Spelled, ...]
    taken: frozenset[str]
    telling: tuple[str, ...]
    spared: frozenset[str]
    recorded: int

    @property
    def schemes(self) -> dict[str, int]:
        """How many weights are under each scheme."""
        return dict(Counter(each.scheme for each in self.found if each.scheme))

    @property
    def layouts(self) -> dict[str, int]:
        """How many weights are in each layout."""
        return dict(Counter(each.layout for each in self.found if each.layout))

    @property
    def kept(self) -> dict[str, dict[str, int]]:
        """How many weights of each scheme keep which dims: ``"0"``, ``"0 1"``, ``"none"`` or ``"unknown"``."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for each in self.found:
            if each.scheme:
                dims = "unknown" if each.kept is None else " ".join(map(str, each.kept)) or "none"
                counts[each.scheme][dims] += 1
        return {scheme: dict(sorted(dims.items())) for scheme, dims in counts.items()}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the weights whose parts belong to no scheme, or do not fit together."""
        return tuple(each.stem for each in self.found if each.scheme is None)


def survey(shapes: Shapes, schemes: Sequence[SchemeFacts], recorded: Recorded) -> Survey:
    """Return what names and shapes say.

    Args:
        shapes: of all tensors, in order.
        schemes: all that there are.
        recorded: what the file says of kept dims; what is recorded is not asked whether it fits together.
    """
    foreign = [replace(each, kept=recorded.get(each.stem, each.kept)) for each in spelled(shapes)]
    claimed = {key for each in foreign for key in each.keys}
    groups = group_keys(shapes, longest_first(part for facts in schemes for names in facts.variants for part in names))
    groups = {stem: keys for stem, keys in groups.items() if claimed.isdisjoint(keys.values())}
    facts = {frozenset(parts): each for each in schemes for parts in each.variants}
    own = [_parted(stem, keys, facts.get(frozenset(keys)), shapes, recorded) for stem, keys in groups.items()]
    telling = [each.keys[0] for each in foreign]
    for each in own:
        if each.scheme:
            parts = groups[each.stem]
            telling += [parts[part] for part in facts[frozenset(parts)].telling if part in parts]
    normalized = [each for each in (*own, *foreign) if each.scheme]
    return Survey(
        found=(*own, *foreign),
        taken=frozenset(claimed.union(*(each.keys for each in normalized))),
        telling=tuple(telling),
        spared=frozenset(key for each in normalized for key in each.keys[1:]),
        recorded=sum(each.stem in recorded for each in (*own, *foreign)),
    )


def _parted(
    stem: str, keys: Mapping[str, str], facts: SchemeFacts | None, shapes: Shapes, recorded: Recorded
) -> Spelled:
    """Return a weight whose keys look like the parts of a scheme, as torch's hooks and wnconvert spell them."""
    if facts is None:
        return Spelled(stem, None, None, tuple(keys.values()))
    fits, kept = _kept(facts, {part: shapes[key] for part, key in keys.items()})
    if stem not in recorded and not fits:
        return Spelled(stem, None, None, tuple(keys.values()))
    direction = keys[facts.telling[1]]
    ordered = (direction, *(key for key in keys.values() if key != direction))
    return Spelled(stem, _HOOKS.get(frozenset(keys)), facts.name, ordered, recorded.get(stem, kept))


def _kept(facts: SchemeFacts, shapes: Shapes) -> tuple[bool, tuple[int, ...] | None]:
    """Return whether the parts of a scheme fit together, and the kept dims if shapes show them."""
    magnitude, direction = facts.telling
    if {"u", "v"} <= shapes.keys():
        return _spectral(shapes[direction], shapes["u"], shapes["v"])
    if magnitude is None:
        return True, None
    others = [part for part in shapes if part != direction]
    telling = magnitude if magnitude in shapes else next(iter(others), None)
    if telling is None:
        return True, None
    kept = kept_dims(shapes[telling], shapes[direction])
    return kept is not None, kept


def _spectral(weight: Sequence[int], u: Sequence[int], v: Sequence[int] | None) -> tuple[bool, tuple[int, ...] | None]:
    """Return whether the vectors of a spectral norm fit the weight, and the kept dim unless only values show it."""
    fitting = fitting_dims(weight, u, v)
    if fitting:
        return True, (fitting[0],) if len(fitting) == 1 else None
    # a scheme may keep several dims, or none
    return v is not None and len(u) == len(v) == 1 and prod(weight) == u[0] * v[0] > 0, None
