"""What names and shapes alone say of layouts, without torch: for `inspect`, which must not import it.

`wnconvert.checkpoint.layout` says the same and more, for it may look at values. What it refuses for a reason that only
values show, such as the dim of a spectral norm, is here too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from wnconvert.checkpoint.content.shapes import Shapes, fitting_dims, kept_dims

_PARAMETRIZED = re.compile(r"((?:.*\.)?)parametrizations\.([^.]+)\.(original\d*|\d+\..+)", re.DOTALL)
_VECTOR = re.compile(r"\d+\._[uv]")
_STATE = re.compile(r"((?:.*\.)?)((?:u|sv)\d+)", re.DOTALL)


@dataclass(frozen=True)
class Spelled:
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


def spelled(shapes: Shapes) -> list[Spelled]:
    """Return the weights of a state dict that are in a layout other than torch's hooks, in the order of their keys."""
    order = {key: index for index, key in enumerate(shapes)}
    found = [*_parametrized(shapes), *_third_party(shapes), *_before_1(shapes), *_biggan(shapes), *_aws(shapes)]
    return sorted(found, key=lambda each: min(order[key] for key in each.keys))


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
        elif known and originals == {"original"}:
            fits, kept = _spectral_parametrized(keys, shapes)
            norms = norms if fits else []
        else:
            norms = []
        ordered = (keys[lead], *(key for rest, key in keys.items() if rest != lead))
        yield Spelled(stem, "parametrization", "+".join(norms) or None, ordered, kept)


def _spectral_parametrized(keys: Mapping[str, str], shapes: Shapes) -> tuple[bool, tuple[int, ...] | None]:
    if not {"0._u", "0._v"} <= keys.keys():
        return False, None
    fitting = fitting_dims(*(shapes[keys[rest]] for rest in ("original", "0._u", "0._v")))
    return bool(fitting), (fitting[0],) if len(fitting) == 1 else None


def _third_party(shapes: Shapes) -> Iterator[Spelled]:
    for key in shapes:
        stem = key.removesuffix("_bar")
        keys = (key, f"{stem}_u", f"{stem}_v")
        if stem != key and all(each in shapes for each in keys):
            fits = 0 in fitting_dims(*(shapes[each] for each in keys))
            yield Spelled(stem, "spectral_norm_bar", "spectral_norm" if fits else None, keys, (0,) if fits else None)


def _before_1(shapes: Shapes) -> Iterator[Spelled]:
    for key in shapes:
        stem = key.removesuffix("_orig")
        keys = (key, stem, f"{stem}_u")
        if stem == key or any(each not in shapes for each in keys) or f"{stem}_v" in shapes:
            continue
        if tuple(shapes[key]) == tuple(shapes[stem]):
            fitting = fitting_dims(shapes[key], shapes[keys[2]], None)
            kept = (fitting[0],) if len(fitting) == 1 else None
            yield Spelled(stem, "spectral_norm_before_1", "spectral_norm" if fitting else None, keys, kept)


def _biggan(shapes: Shapes) -> Iterator[Spelled]:
    states: dict[str, dict[str, str]] = defaultdict(dict)
    for key in shapes:
        if match := _STATE.fullmatch(key):
            states[match[1]][match[2]] = key
    for module, state in states.items():
        weight = f"{module}weight"
        if weight not in shapes or not {"u0", "sv0"} <= state.keys():
            continue
        keys, shape, u = (weight, *state.values()), shapes[weight], tuple(shapes[state["u0"]])
        rows = shape[0] if len(shape) > 1 else 0
        fits = rows and tuple(shapes[state["sv0"]]) == (1,) and u in ((1, rows), (1, prod(shape) // rows))
        kept = (0,) if fits and u == (1, rows) else None
        yield Spelled(weight, "biggan", "spectral_norm" if fits else None, keys, kept)


def _aws(shapes: Shapes) -> Iterator[Spelled]:
    for key, shape in shapes.items():
        keys = (key, f"{key}_gamma", f"{key}_beta")
        if len(shape) != 4 or any(each not in shapes for each in keys):
            continue
        if all(tuple(shapes[each]) == (shape[0], 1, 1, 1) for each in keys[1:]):
            yield Spelled(key, "mmcv-conv-aws", "weight_standardization", keys, (0,))
