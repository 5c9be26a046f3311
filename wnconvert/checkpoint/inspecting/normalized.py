"""What names and shapes alone say of the weights of a state dict, without torch: for `inspect`, in both of its ways."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from math import prod
from typing import NamedTuple, TypeAlias

from wnconvert.checkpoint.content.names import group_keys
from wnconvert.checkpoint.content.shapes import Shapes, fitting_dims, kept_dims
from wnconvert.checkpoint.layout import (
    LAYOUTS,
    Group,
    Listing,
    automatic_layouts,
    direction,
    is_factor,
    outline,
    settled,
)
from wnconvert.scheme import SCHEMES, Scheme

#: kept dims by the name of the weight, as the file records them.
Recorded: TypeAlias = Mapping[str, tuple[int, ...]]


class NormalizedWeight(NamedTuple):
    """The keys of one weight.

    Attributes:
        stem: dotted name of the weight.
        layout: name of the layout, or None where only wnconvert has such parts.
        scheme: name of the scheme, or None where only the software knows, or the parts do not fit together.
        keys: its keys, that of the part with the weight's shape first.
        kept: the kept dims, where shapes show them; of the first scheme, where one is on top of another.
    """

    stem: str
    layout: str | None
    scheme: str | None
    keys: tuple[str, ...]
    kept: tuple[int, ...] | None = None


class NormalizedWeights(NamedTuple):
    """The weights in a state dict that are not plain.

    Attributes:
        found: all of them.
        taken: their keys; those of no known scheme only where a layout claims them. Those of an adapter, too.
        telling: keys whose zeros and NaNs are those of a weight: magnitudes and directions.
        spared: keys that would be gone after folding.
        recorded: how many of them the file records.
        adapter: what adapter is among the keys, or nothing.
    """

    found: tuple[NormalizedWeight, ...]
    taken: frozenset[str]
    telling: tuple[str, ...]
    spared: frozenset[str]
    recorded: int
    adapter: str

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


def normalized_weights(shapes: Shapes, recorded: Recorded) -> NormalizedWeights:
    """Return what names and shapes say.

    Args:
        shapes: of all tensors, in order.
        recorded: what the file says of kept dims; what is recorded is not asked whether it fits together.
    """
    foreign = [_of_group(group, shapes, recorded) for group in _groups(shapes)]
    claimed = {key for each in foreign for key in each.keys}
    hooks = _hooks()
    parted = {stem: keys for stem, keys in group_keys(shapes).items() if claimed.isdisjoint(keys.values())}
    kinds = {frozenset(parts): kind for kind in map(SCHEMES.get, SCHEMES) for parts in kind.variants}
    own = [
        _of_parts(stem, keys, kinds.get(frozenset(keys)), hooks.get(frozenset(keys)), shapes, recorded)
        for stem, keys in parted.items()
    ]
    telling = [each.keys[0] for each in foreign]
    for each in own:
        if each.scheme:
            kind, keys = SCHEMES.get(each.scheme), parted[each.stem]
            telling += [keys[part] for part in (kind.magnitude, kind.direction) if part in keys]
    adapter = outline(shapes)
    known = [each for each in (*own, *foreign) if each.scheme]
    return NormalizedWeights(
        found=(*own, *foreign),
        taken=frozenset(claimed.union(*(each.keys for each in known), filter(is_factor, shapes) if adapter else ())),
        telling=tuple(telling),
        spared=frozenset(key for each in known for key in each.keys[1:]),
        recorded=sum(each.stem in recorded for each in (*own, *foreign)),
        adapter=adapter,
    )


def _groups(shapes: Shapes) -> list[Group]:
    """Return the groups of other software; the keys of torch's hooks are those of a scheme's parts as well."""
    layouts = [layout for layout in automatic_layouts() if layout.api != "hook" and not layout.hint]
    groups = settled([group for layout in layouts for group in layout.find(Listing(shapes))])
    order = {key: index for index, key in enumerate(shapes)}
    return sorted(groups, key=lambda group: min(order[key] for key in group.keys.values()))


def _of_group(group: Group, shapes: Shapes, recorded: Recorded) -> NormalizedWeight:
    keys = list(group.keys.values())
    if group.scheme:
        lead = group.keys[direction(group, LAYOUTS.get(group.layout)())]
    else:
        lead = max(keys, key=lambda key: (prod(shapes[key]), key))
    kept = recorded.get(group.stem, group.kept)
    return NormalizedWeight(group.stem, group.layout, group.scheme, _from(lead, keys), kept)


def _of_parts(
    stem: str,
    keys: Mapping[str, str],
    kind: type[Scheme] | None,
    hook: str | None,
    shapes: Shapes,
    recorded: Recorded,
) -> NormalizedWeight:
    """Return a weight whose keys look like the parts of a scheme, as torch's hooks and wnconvert spell them."""
    fits, kept = _kept(kind, {part: shapes[key] for part, key in keys.items()}) if kind else (False, None)
    if kind is None or not (fits or stem in recorded):
        return NormalizedWeight(stem, None, None, tuple(keys.values()))
    ordered = _from(keys[kind.direction], list(keys.values()))
    return NormalizedWeight(stem, hook, kind.name, ordered, recorded.get(stem, kept))


def _hooks() -> dict[frozenset[str], str]:
    """Return the layouts in which hooks of torch keep their parts."""
    layouts = (layout for layout in automatic_layouts() if layout.api == "hook")
    return {frozenset(parts): layout.name for layout in layouts for parts in layout.spells.values()}


def _from(first: str, keys: list[str]) -> tuple[str, ...]:
    return (first, *(key for key in keys if key != first))


def _kept(kind: type[Scheme], shapes: Shapes) -> tuple[bool, tuple[int, ...] | None]:
    """Return whether the parts of a scheme fit together, and the kept dims if shapes show them."""
    if {"u", "v"} <= shapes.keys():
        return _spectral(shapes[kind.direction], shapes["u"], shapes["v"])
    if kind.magnitude is None:
        return True, None
    others = [part for part in shapes if part != kind.direction]
    telling = kind.magnitude if kind.magnitude in shapes else next(iter(others), None)
    if telling is None:
        return True, None
    kept = kept_dims(shapes[telling], shapes[kind.direction])
    return kept is not None, kept


def _spectral(weight: tuple[int, ...], u: tuple[int, ...], v: tuple[int, ...]) -> tuple[bool, tuple[int, ...] | None]:
    """Return whether the vectors of a spectral norm fit the weight, and the kept dim unless only values show it."""
    fitting = fitting_dims(weight, u, v)
    if fitting:
        return True, (fitting[0],) if len(fitting) == 1 else None
    # a scheme may keep several dims, or none
    return len(u) == len(v) == 1 and prod(weight) == u[0] * v[0] > 0, None
