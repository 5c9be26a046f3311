"""Compare tensors bit for bit, and say why they differ."""

from __future__ import annotations

from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason, Why


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have one shape, one dtype and equal bits; NaNs and signed zeros count as bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.is_complex:
        return same_bits(torch.view_as_real(a), torch.view_as_real(b))
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.detach().view(integer), b.detach().view(integer))


def is_dense(tensor: Tensor) -> bool:
    """Return whether a strided tensor fills its memory without gaps or overlap, in whichever order of dims."""
    reached = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != reached:
            return False
        reached *= size
    return True


def reason_for_difference(weight: Tensor) -> Reason:
    """Return why a function-preserving scheme could not give ``weight`` back."""
    if not bool(weight.isfinite().all()):
        return Why.NON_FINITE()
    return Why.INEXACT(dtype=str(weight.dtype).removeprefix("torch."))
