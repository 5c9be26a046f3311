"""The bits of `torch.std` on a CPU in a ninth of its time.

torch computes the deviation of float32 numbers one by one in float64 (Welford), and rounds it once. A sum and a norm in
float64, which it has vectorized, give the same before rounding, but for an error that is known to be small: so after
rounding it is the same number, unless it was as good as halfway between two. Then torch has to say which.
"""

from __future__ import annotations

from functools import lru_cache

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import WeightSpec

#: below that many elements `torch.std` is as fast
_LEAST_ELEMENTS = 4096
#: half the distance of 1 and the next number in float64
_ROUNDING = 2.0**-53


def quick_std(v: Tensor, spec: WeightSpec, correction: int) -> Tensor | None:
    """Return the very bits of `torch.std` over the reduced dims, or None where only torch knows them.

    With n numbers, u the rounding error of float64 and ``k**2 = sum(v**2) / sum((v - mean)**2)``, the deviation by
    Welford is within ``n k u`` of the exact one, and that by sums within ``2 n k**2 u`` (Chan, Golub & LeVeque 1983,
    https://doi.org/10.1080/00031305.1983.10483115). The bound here is ``8 n k**2 u``, more than twice what both
    need; as a share of ``sum(v**2)`` it is the same number for all rows.

    Args:
        v: a plain tensor without a gradient.
        spec: its static facts.
        correction: how much less than the number of elements the variance is divided by.
    """
    # torch takes the deviation of all elements together in another way, and quickly
    if (
        v.dtype != torch.float32
        or v.device.type != "cpu"
        or v.numel() < _LEAST_ELEMENTS
        or min(spec.rows, spec.fan_in) < 2
    ):
        return None
    # cast on the way: a copy would be twice as large as the weight
    dims, size = spec.dims, spec.fan_in
    squares = torch.linalg.vector_norm(v, 2, dims, keepdim=True, dtype=torch.float64).square_()
    sums = torch.sum(v, dims, keepdim=True, dtype=torch.float64)
    # sum((v - mean)**2) without and with twice the margin, each divided by what a variance is divided by
    least_and_most = squares * _factors(size, correction, v.dim())
    least_and_most.addcmul_(sums, sums, value=-1 / (size * (size - correction)))
    low, high = least_and_most.sqrt_().float().unbind()
    return low if torch.equal(low, high) else None  # nor is what is not a number


@lru_cache(maxsize=1024)
def _factors(size: int, correction: int, ndim: int) -> Tensor:
    margin = (16 * size + 128) * _ROUNDING
    ends = torch.tensor([1 - margin, 1 + margin], dtype=torch.float64) / (size - correction)
    return ends.view(2, *[1] * ndim)
