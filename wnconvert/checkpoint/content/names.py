"""Names in a state dict, without the tensors: which may be weights, and which belong together. Needs no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cache

from wnconvert.scheme import SCHEMES

_WEIGHT = re.compile(r"(?:.*_)?weight(?:_(?:ih|hh|hr)(?:_l\d+)?(?:_reverse)?)?")


def is_weight_name(name: str) -> bool:
    """Return whether the last component of a dotted name is that of a weight."""
    return _WEIGHT.fullmatch(name.rpartition(".")[2]) is not None


@cache
def part_names() -> tuple[str, ...]:
    """All parts of all schemes, the longest first, so that no name is taken for the end of another."""
    names = {part for scheme in map(SCHEMES.get, SCHEMES) for parts in scheme.variants for part in parts}
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


def parted(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the keys that end in the name of a part of any scheme: by what is before it, then by part."""
    suffixes = tuple(f"_{part}" for part in part_names())
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for key in keys:
        if key.endswith(suffixes):  # one look at most keys
            suffix = next(each for each in suffixes if key.endswith(each))
            found[key[: -len(suffix)]][suffix[1:]] = key
    return found


def group_keys(keys: Iterable[str], stems: Collection[str] | None = None) -> dict[str, dict[str, str]]:
    """Return the keys that look like the parts of a weight: by the name of that weight, then by part.

    Args:
        keys: the names in a state dict, in order.
        stems: dotted names of the weights, where a model tells them; by default, whatever `is_weight_name`.
    """
    named = is_weight_name if stems is None else stems.__contains__
    return {stem: parts for stem, parts in parted(keys).items() if named(stem)}


#: components that training wrappers put into names, and the inner module of the spectral norm with ``weight_bar``.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def unwrapped(name: str) -> str:
    """Return a dotted name without the components that wrappers put into it."""
    parts = name.split(".")
    return ".".join([part for part in parts[:-1] if part not in WRAPPERS] + parts[-1:])
