"""What torch's spectral norms have in common: which dim they keep, and the weight."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wnconvert.checkpoint.layout import Source

#: a residual at most this large, and this many times smaller than that of any other dim, settles which dim is kept.
#: Vectors of the iteration before the last step of the optimizer give about 1e-3, a wrong dim about 1.
_SMALL, _TIMES = 0.25, 4.0

AMBIGUOUS = "its parts do not show which dim was kept ({dims} fit, and the vectors belong to none); give it (--dim)"


def matrix(weight: Tensor, dim: int) -> Tensor:
    """Return the weight as a matrix whose rows are ``dim``, by the calls of torch's modules."""
    if dim != 0:
        weight = weight.permute(dim, *(d for d in range(weight.dim()) if d != dim))
    return weight.reshape(weight.size(0), -1)


def fitting_dims(weight: Tensor, u: Tensor, v: Tensor | None) -> list[int]:
    """Return the dims that may be the kept one by the lengths of the vectors."""
    if u.ndim != 1 or (v is not None and v.ndim != 1) or weight.ndim < 2 or not u.numel():
        return []
    rows = [dim for dim, size in enumerate(weight.shape) if size == u.numel()]
    return [dim for dim in rows if v is None or weight.numel() == v.numel() * u.numel()]


def kept_dim(
    fitting: list[int], source: Source, vectors: Callable[[], tuple[Tensor, Tensor, Tensor | None]]
) -> tuple[int | None, str | None]:
    """Return the kept dim, or None and why it is not known.

    Lengths decide first, then the user, then the values: with the right dim ``u`` and ``v`` are results of the power
    iteration, so that ``W v`` points along ``u`` (the old hook ends with that step) or ``W^T u`` along ``v`` (the new
    parametrization does). With a wrong dim neither is so.

    Args:
        fitting: the dims that the lengths allow, at least one.
        source: where the user's word is.
        vectors: loads weight, ``u`` and ``v``.
    """
    if source.dim != "default":
        said = source.dim
        return (said, None) if said in fitting else (None, f"its vectors do not fit dim {said!r}, but {_list(fitting)}")
    if len(fitting) == 1:
        return fitting[0], None
    weight, u, v = (None if tensor is None else tensor.detach().double() for tensor in vectors())
    assert weight is not None
    assert u is not None
    residuals = sorted((_residual(matrix(weight, dim), u, v), dim) for dim in fitting)
    (best, dim), (second, _) = residuals[:2]
    if best <= _SMALL and best * _TIMES <= second:
        return dim, None
    return None, AMBIGUOUS.format(dims=f"dims {_list(fitting)}")


def compose(weight: Tensor, u: Tensor, v: Tensor, dim: int, dot: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return ``weight / (u^T W v)``; the hook takes `torch.dot`, the parametrization `torch.vdot`."""
    return weight / dot(u, torch.mv(matrix(weight, dim), v))


def _residual(w: Tensor, u: Tensor, v: Tensor | None) -> float:
    """Return how far the vectors are from a step of the power iteration; without ``v``, ``u`` from two of them."""
    u = F.normalize(u, dim=0)
    back = F.normalize(w.T @ u, dim=0)
    right = back if v is None else F.normalize(v, dim=0)
    forward = float(torch.linalg.vector_norm(F.normalize(w @ right, dim=0) - u))
    backward = forward if v is None else float(torch.linalg.vector_norm(back - right))
    nearest = min(forward, backward)
    return nearest if math.isfinite(nearest) else math.inf


def _list(dims: list[int]) -> str:
    return " and ".join(map(str, dims))
