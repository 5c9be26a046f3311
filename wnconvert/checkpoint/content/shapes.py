"""What the shapes of parts say of the dims that were kept. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeAlias

#: shapes by key.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


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


def fitting_dims(weight: Sequence[int], u: Sequence[int], v: Sequence[int] | None) -> list[int]:
    """Return the dims of a weight that a spectral norm may have kept, by the lengths of its vectors."""
    if len(u) != 1 or (v is not None and len(v) != 1) or len(weight) < 2 or not prod(u):
        return []
    return [dim for dim, size in enumerate(weight) if size == u[0] and (v is None or prod(weight) == v[0] * u[0])]
