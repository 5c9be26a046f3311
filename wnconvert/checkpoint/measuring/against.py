"""How the tensors of two files differ, one by one: what is in one of them only, shapes, dtypes, norms and angles.

Two tensors at a time are looked at, a few rows at a time in float64, so that the memory is that of the largest weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from wnconvert.checkpoint.comparing.comparison import is_plain, paired
from wnconvert.checkpoint.comparing.effective import Effective
from wnconvert.checkpoint.content.difference import bits_equal

#: ``"changed"``, or in one of the files only: ``"extra"`` in the first, ``"missing"`` from it.
Status: TypeAlias = Literal["changed", "extra", "missing"]
#: elements that are looked at together
BLOCK = 1 << 20


@dataclass(frozen=True)
class Difference:
    """One tensor in which two files differ; what only one of them has is None for the other.

    Attributes:
        name: its dotted name, as the first file has it if it does.
        status: see `Status`.
        shapes: its sizes in either.
        dtypes: its dtype in either, without ``torch.``.
        norms: the norm of all its elements in either.
        change: the norm of the difference, as a share of the norm in the second file.
        angle: between both as vectors, in degrees; None where one of them is zero, not finite, or a single number.
        angle_max: the largest such angle of one channel of a weight.
    """

    name: str
    status: Status
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    dtypes: tuple[str | None, str | None]
    norms: tuple[float | None, float | None] = (None, None)
    change: float | None = None
    angle: float | None = None
    angle_max: float | None = None


@dataclass(frozen=True)
class Differences:
    """How two files differ.

    Attributes:
        compared: how many tensors both have.
        equal: how many of them are equal, bit for bit.
        differing: the others, in the order of the first file, and then what one of them has alone.
    """

    compared: int
    equal: int
    differing: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the differences as plain data, ready for JSON."""
        return asdict(self)


@torch.no_grad()
def differences(first: Sequence[Effective], second: Sequence[Effective]) -> Differences:
    """Return how the tensors of one file differ from those of another, matched as `wnconvert.checkpoint.verify` does.

    Args:
        first: the tensors of the one file, see `wnconvert.checkpoint.comparing.effective.effective`.
        second: those of the other.
    """
    pairs, left, right = paired(first, second)
    found = [difference for a, b in pairs if (difference := _difference(a, b)) is not None]
    extra = [_alone(each, "extra") for each in left]
    missing = [_alone(each, "missing") for each in right]
    return Differences(len(pairs), len(pairs) - len(found), (*found, *extra, *missing))


def _alone(each: Effective, status: Status) -> Difference:
    here = tuple(each.tensor.shape), _dtype(each.tensor)
    first, second = (here, (None, None)) if status == "extra" else ((None, None), here)
    return Difference(each.fqn, status, (first[0], second[0]), (first[1], second[1]))


def _difference(first: Effective, second: Effective) -> Difference | None:
    a, b = first.value(), second.value()
    if bits_equal(a, b):
        return None
    shapes, dtypes = (tuple(a.shape), tuple(b.shape)), (_dtype(a), _dtype(b))
    norms = _norm(a), _norm(b)
    if a.shape != b.shape or None in norms:
        return Difference(first.fqn, "changed", shapes, dtypes, norms)
    kept = first.kept or (0,) if first.is_weight else ()
    return Difference(first.fqn, "changed", shapes, dtypes, norms, *_apart(a, b, norms, kept))  # type: ignore[arg-type]


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _norm(tensor: Tensor) -> float | None:
    """Return the norm of all elements, or None where that is no finite number."""
    if not is_plain(tensor):
        return None
    squares = sum(float(torch.linalg.vector_norm(block)) ** 2 for (block,) in _blocks((tensor,), ()))
    return math.sqrt(squares) if math.isfinite(squares) else None


def _apart(
    a: Tensor, b: Tensor, norms: tuple[float, float], kept: tuple[int, ...]
) -> tuple[float | None, float | None, float | None]:
    """Return how far two tensors of one shape are apart, their angle, and the largest angle of a channel."""
    distance = chord = 0.0
    widest: float | None = None
    for x, y in _blocks((a, b), kept):
        distance += float(torch.linalg.vector_norm(x - y)) ** 2
        if all(norms):
            chord += float(torch.linalg.vector_norm(x / norms[0] - y / norms[1])) ** 2
        if kept:
            widest = max((each for each in (widest, _widest(x, y)) if each is not None), default=None)
    change = math.sqrt(distance) / norms[1] if norms[1] else None
    angle = _degrees(math.sqrt(chord)) if all(norms) and a.numel() > 1 else None
    return change, angle, widest


def _widest(x: Tensor, y: Tensor) -> float | None:
    """Return the largest angle between rows of one index, those of zeros left out."""
    lengths = [torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (x, y)]
    known = ((lengths[0] > 0) & (lengths[1] > 0)).squeeze(1)
    if x.shape[1] < 2 or not bool(known.any()):
        return None
    units = [each[known] / length[known] for each, length in zip((x, y), lengths, strict=True)]
    return _degrees(float(torch.linalg.vector_norm(units[0] - units[1], dim=1).max()))


def _degrees(chord: float) -> float:
    """Return the angle of two unit vectors that are so far apart: its cosine would be 1 below 0.02 degrees."""
    return math.degrees(2 * math.asin(min(chord / 2, 1.0)))


def _blocks(tensors: Sequence[Tensor], kept: tuple[int, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield some rows at a time of tensors of one shape, in float64."""
    matrices = [_matrix(tensor, kept) for tensor in tensors]
    step = max(1, BLOCK // max(1, matrices[0].shape[1]))
    for start in range(0, len(matrices[0]), step):
        yield tuple(matrix[start : start + step].double() for matrix in matrices)


def _matrix(tensor: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Return a tensor with its kept dims flattened to rows; without any, in rows of a single element."""
    rest = [dim for dim in range(tensor.ndim) if dim not in kept]
    rows = math.prod(tensor.shape[dim] for dim in kept)
    return tensor.permute(*kept, *rest).reshape(rows, -1) if kept else tensor.reshape(-1, 1)
