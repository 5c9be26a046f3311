"""Compare tensors bit for bit, and say by how much they differ."""

from __future__ import annotations

from functools import cache
from math import inf, isfinite

from wnconvert.lazy import Tensor, torch

#: the least positive number
_LEAST = 5e-324


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have one shape, one dtype and equal bits; NaNs and signed zeros count as bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.is_complex:
        return same_bits(torch.view_as_real(a), torch.view_as_real(b))
    integer = _integer(a.element_size())
    return torch.equal(a.view(integer), b.view(integer))


@cache
def _integer(size: int) -> torch.dtype:
    return {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]


def is_dense(tensor: Tensor) -> bool:
    """Return whether a strided tensor fills its memory without gaps or overlap, in whichever order of dims."""
    reached = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != reached:
            return False
        reached *= size
    return True


def change(weight: Tensor, composed: Tensor) -> float:
    """Return the largest absolute change of an element; not zero wherever a single bit differs, such as a zero's sign.

    It is infinite where something is not finite.
    """
    if same_bits(weight, composed):
        return 0.0
    largest = float((weight.detach().double() - composed.detach().double()).abs().max())
    return max(largest, _LEAST) if isfinite(largest) else inf
