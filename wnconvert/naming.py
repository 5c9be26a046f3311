"""What the names of tensors say: which of them are the parts of one weight, how that is called, and its scheme.

Asked of graphs, of exported programs and of ONNX files alike. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from wnconvert.scheme import SCHEMES, Scheme, identify

#: below which `torch.nn.utils.parametrize` keeps what a weight is computed from, in a container of the weight's name
PARAMETRIZATIONS = "parametrizations"
_PARAMETRIZED = re.compile(rf"(?P<path>.+\.)?{PARAMETRIZATIONS}\.(?P<name>[^.]+)\.[^.]")
#: the end of the name of what torch's hooks compute a weight from
ORIGINAL = "_orig"


def identify_weight(fqns: Sequence[str]) -> tuple[str | None, Scheme | None]:
    """Return the stem whose parts, with what all weights share, are exactly the given names, and their scheme.

    The stem is None where the names are not those of parts; the scheme, where they are those of torch's own modules
    that no scheme claims.
    """
    parts_of_stem: dict[str, set[str]] = {}
    for fqn in fqns:
        for part in _part_names():
            if fqn.endswith(f"_{part}"):
                parts_of_stem.setdefault(fqn[: -len(part) - 1], set()).add(part)
    for stem, parts in parts_of_stem.items():
        scheme = _identify_parts(frozenset(parts))
        if scheme is not None and {f"{stem}_{part}" for part in parts} == set(fqns).difference(scheme.shared):
            return stem, scheme
    return _reparametrized(fqns), None


def _reparametrized(fqns: Sequence[str]) -> str | None:
    """Return the weight that one of torch's APIs splits into tensors of such names: parametrizations, or its hooks."""
    stems = {f"{found['path'] or ''}{found['name']}" for fqn in fqns if (found := _PARAMETRIZED.match(fqn))}
    if not stems and len(fqns) > 1:
        stems = {fqn.removesuffix(ORIGINAL) for fqn in fqns if fqn.endswith(ORIGINAL)}
        if not all(fqn.startswith(f"{stem}_") for stem in stems for fqn in fqns):
            return None
    return stems.pop() if len(stems) == 1 else None


def parts_by_weight(fqns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return which of some names are those of the parts of one weight, by the name of the weight."""
    hooked = {fqn.removesuffix(ORIGINAL) for fqn in fqns if fqn.endswith(ORIGINAL)}
    candidates: dict[str, dict[str, None]] = {}
    for fqn in fqns:
        stems = [fqn[: -len(part) - 1] for part in _part_names() if fqn.endswith(f"_{part}")]
        stems += [f"{found['path'] or ''}{found['name']}"] if (found := _PARAMETRIZED.match(fqn)) else []
        stems += hooked.intersection([fqn.rpartition("_")[0]])
        for stem in stems:
            candidates.setdefault(stem, {})[fqn] = None
    return {stem: tuple(names) for stem, names in candidates.items() if identify_weight(list(names))[0] == stem}


def is_original(fqn: str) -> bool:
    """Return whether one of torch's APIs keeps under such a name what stands for the weight, and no mask or vector."""
    return fqn.endswith(ORIGINAL) or fqn.rpartition(".")[2].startswith("original")


@cache
def _part_names() -> tuple[str, ...]:
    classes = [SCHEMES.get(name) for name in SCHEMES]
    return tuple(dict.fromkeys(part for cls in classes for parts in cls.variants for part in parts))


_identify_parts = cache(identify)
