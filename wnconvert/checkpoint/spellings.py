"""What names and shapes alone say of layouts, without torch: for `inspect`, which must not import it.

`wnconvert.checkpoint.layout` says the same and more, for it may look at values. What it refuses for a reason that only
values show, such as the dim of a spectral norm, is here too.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

#: shapes by key.
Shapes: TypeAlias = Mapping[str, Sequence[int]]

_PARAMETRIZED = re.compile(r"((?:.*\.)?)parametrizations\.([^.]+)\.(original\d*|\d+\..+)", re.DOTALL)
_VECTOR = re.compile(r"\d+\._[uv]")


@dataclass(frozen=True)
class Spelled:
    """The keys of one weight in the layout of other software than torch's hooks.

    Attributes:
        stem: dotted name of the weight.
        layout: name of the layout.
        scheme: name of the scheme, or None where only the software knows.
        keys: its keys, that of the part with the weight's shape first.
        kept: the kept dims, where shapes show them.
    """

    stem: str
    layout: str
    scheme: str | None
    keys: tuple[str, ...]
    kept: tuple[int, ...] | None = None


def spelled(shapes: Shapes) -> list[Spelled]:
    """Return the weights of a state dict that are in a layout other than torch's hooks, in the order of their keys."""
    order = {key: index for index, key in enumerate(shapes)}
    found = [*_parametrized(shapes), *_third_party(shapes), *_before_1(shapes), *_biggan(shapes), *_aws(shapes)]
    return sorted(found, key=lambda each: min(order[key] for key in each.keys))


def count_layouts(parts: Iterable[Collection[str]], foreign: Iterable[Spelled]) -> dict[str, int]:
    """Return how many weights are in each layout.

    Args:
        parts: the part names of each weight whose keys are parts of a scheme.
        foreign: the others.
    """
    hooks = {frozenset({"g", "v"}): "weight_norm_hook", frozenset({"orig", "u", "v"}): "spectral_norm_hook"}
    own = [hooks[frozenset(names)] for names in parts if frozenset(names) in hooks]
    return dict(Counter([*own, *(each.layout for each in foreign)]))


def kept_dims(g: Sequence[int], v: Sequence[int]) -> tuple[int, ...] | None:
    """Return the kept dims that the shape of a magnitude shows, or None where it is none of that direction."""
    if not len(v):
        return None  # torch computes no norm of a number
    if not len(g):
        return ()
    if len(g) != len(v) or any(size not in (1, whole) for size, whole in zip(g, v, strict=True)):
        return None
    kept = tuple(dim for dim, size in enumerate(g) if size != 1)
    return kept or tuple(dim for dim, size in enumerate(v) if size == 1)[:1]


def _parametrized(shapes: Shapes) -> Iterator[Spelled]:
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for key in shapes:
        if match := _PARAMETRIZED.fullmatch(key):
            groups[match[1] + match[2]][match[3]] = key
    for stem, keys in groups.items():
        originals = {rest for rest in keys if rest.startswith("original")}
        vectors = [rest for rest in keys if _VECTOR.fullmatch(rest)]
        known = len(vectors) + len(originals) == len(keys)
        norms = ["spectral_norm"] * (len(vectors) // 2)
        lead = "original1" if "original1" in keys else min(originals or keys)
        kept = None
        if known and originals == {"original0", "original1"}:
            kept = kept_dims(shapes[keys["original0"]], shapes[keys["original1"]])
            norms = ["weight_norm", *norms] if kept is not None else []
        elif not known or originals != {"original"}:
            norms = []
        ordered = (keys[lead], *(key for rest, key in keys.items() if rest != lead))
        yield Spelled(stem, "parametrization", "+".join(norms) or None, ordered, kept)


def _third_party(shapes: Shapes) -> Iterator[Spelled]:
    for key in shapes:
        stem = key.removesuffix("_bar")
        keys = (key, f"{stem}_u", f"{stem}_v")
        if stem != key and all(each in shapes for each in keys):
            yield Spelled(stem, "spectral_norm_bar", "spectral_norm", keys, (0,))


def _before_1(shapes: Shapes) -> Iterator[Spelled]:
    for key in shapes:
        stem = key.removesuffix("_orig")
        keys = (key, stem, f"{stem}_u")
        if stem != key and all(each in shapes for each in keys) and f"{stem}_v" not in shapes:
            yield Spelled(stem, "spectral_norm_before_1", "spectral_norm", keys)


def _biggan(shapes: Shapes) -> Iterator[Spelled]:
    for key in shapes:
        module, _, name = key.rpartition(".")
        prefix = f"{module}." if module else ""
        state = (f"{prefix}u0", f"{prefix}sv0")
        if name != "weight" or any(each not in shapes for each in state) or len(shapes[key]) < 2:
            continue
        if [tuple(shapes[each]) for each in state] == [(1, shapes[key][0]), (1,)]:
            yield Spelled(key, "biggan", "spectral_norm", (key, *state), (0,))


def _aws(shapes: Shapes) -> Iterator[Spelled]:
    for key, shape in shapes.items():
        keys = (key, f"{key}_gamma", f"{key}_beta")
        if len(shape) != 4 or any(each not in shapes for each in keys):
            continue
        if all(tuple(shapes[each]) == (shape[0], 1, 1, 1) for each in keys[1:]):
            yield Spelled(key, "mmcv-conv-aws", "weight_standardization", keys, (0,))
