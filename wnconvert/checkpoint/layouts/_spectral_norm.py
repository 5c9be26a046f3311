"""What torch's spectral norms have in common: which dim they keep, and the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from wnconvert.checkpoint.layout import Listing, Load
from wnconvert.errors import OptionError
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason, Why
from wnconvert.verification import same_bits

#: a residual at most this large, and this many times smaller than that of any other dim, settles which dim is kept.
#: Vectors of the iteration before the last step of the optimizer give about 1e-3, a wrong dim about 1.
_SMALL, _TIMES = 0.25, 4.0

#: how far from 1 the largest singular value of a folded weight may be: the vectors that training stores lag behind.
_FOLDED = 0.1
#: power iterations that tell what is far from it.
_STEPS = 20
#: how often `held_vectors` halves an angle.
_HALVINGS = 60
#: how many roundings `nearest` tries, and by how many units of the last place it changes an element at most.
_ROUNDINGS, _FEW = 128, 8


def matrix(weight: Tensor, dim: int) -> Tensor:
    """Return the weight as a matrix whose rows are ``dim``, by the calls of torch's modules."""
    if dim != 0:
        weight = weight.permute(dim, *(d for d in range(weight.dim()) if d != dim))
    return weight.reshape(weight.size(0), -1)


def kept_dim(
    fitting: list[int], listing: Listing, vectors: Callable[[Load], tuple[Tensor, Tensor, Tensor | None]]
) -> tuple[int | None, Reason | None]:
    """Return the kept dim, or None and why it is not known.

    Lengths decide first, then the user, then the values: with the right dim ``u`` and ``v`` are results of the power
    iteration, so that ``W v`` points along ``u`` (the old hook ends with that step) or ``W^T u`` along ``v`` (the new
    parametrization does). With a wrong dim neither is so.

    Args:
        fitting: the dims that the lengths allow, at least one.
        listing: where the user's word is.
        vectors: loads weight, ``u`` and ``v``.
    """
    if listing.dim != "default":
        said = listing.dim
        if said in fitting:
            return said, None
        return None, Why.DIM(shown=f"its vectors do not fit dim {said!r}, but {_list(fitting)}")
    if len(fitting) == 1:
        return fitting[0], None
    if listing.load is None:
        return None, Why.DIM(how=f" (dims {_list(fitting)} fit)")
    weight, u, v = (None if tensor is None else tensor.detach().double() for tensor in vectors(listing.load))
    assert weight is not None
    assert u is not None
    residuals = sorted((_residual(matrix(weight, dim), u, v), dim) for dim in fitting)
    (best, dim), (second, _) = residuals[:2]
    if best <= _SMALL and best * _TIMES <= second:
        return dim, None
    return None, Why.DIM(how=f" (dims {_list(fitting)} fit, and the vectors belong to none)")


def composed(weight: Tensor, u: Tensor, v: Tensor, dim: int, dot: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return ``weight / (u^T W v)``; the hook takes `torch.dot`, the parametrization `torch.vdot`."""
    return weight / dot(u, torch.mv(matrix(weight, dim), v))


def split(weight: Tensor, kept: tuple[int, ...], dot: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the parts of torch's spectral norms for a folded weight.

    Raises:
        OptionError: torch has none that keeps such dims.
    """
    if len(kept) != 1 or weight.ndim < 2:
        raise OptionError(f"torch has no spectral norm with kept dims {kept} of {weight.ndim}")
    (dim,) = kept
    u, v = held_vectors(weight, kept, lambda u, v: dot(u, torch.mv(matrix(weight, dim), v)))
    return {"orig": weight, "u": u, "v": v}


def restored(
    weight: Tensor, kept: tuple[int, ...], like: Mapping[str, Tensor], dot: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor] | None:
    """Return the parts of torch's spectral norms with the vectors of others, or None where they cannot be kept.

    What was folded from the very parts has them back. Any other weight is its own ``orig``, and ``u`` is as long as
    makes the sigma of that 1 to the bit: of a folded weight it is 1 up to rounding, so that at most the last bits of
    ``u`` change, and of one that was trained since, it is near 1. The next iteration in training makes ``u`` a unit
    vector again, whatever its length.

    Args:
        weight: the folded weight.
        kept: its kept dim.
        like: the other parts.
        dot: the dot product of the live module.
    """
    (dim,) = kept
    orig, u, v = (like[part].detach() for part in ("orig", "u", "v"))
    rows = weight.shape[dim]
    if orig.shape == weight.shape and same_bits(composed(orig, u, v, dim, dot), weight):
        return {"orig": orig, "u": u, "v": v}
    if (u.shape, v.shape) != ((rows,), (weight.numel() // max(rows, 1),)):
        return None
    u, v = u.to(weight.dtype), v.to(weight.dtype)

    def sigma(u: Tensor, v: Tensor) -> Tensor:
        return dot(u, torch.mv(matrix(weight, dim), v))

    found = float(sigma(u, v))
    if not abs(found - 1) <= _FOLDED:
        return None
    if found != 1:
        u, v = _with_one((u.double() / found).to(u.dtype), v, sigma)
    return {"orig": weight, "u": u, "v": v} if sigma(u, v) == 1 else None


def held_vectors(
    weight: Tensor, kept: tuple[int, ...], sigma: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the first singular vectors of a weight, ``u`` turned a little so that ``sigma`` of them is 1 to the bit.

    What divides by a sigma of exactly 1 gives the weight back. The largest singular value of a folded weight is 1 up to
    what the vectors lagged behind in training; a ``u`` that stands at an angle to the singular vector lags as much.
    Where the value is not near 1, nothing is turned.

    Args:
        weight: the folded weight.
        kept: its kept dim.
        sigma: the calls of the live module, given ``u`` and ``v``.
    """
    u, v, _ = first_vectors(weight, kept)
    exact, v = u.to(weight.dtype).double(), v.to(weight.dtype)
    pattern = torch.arange(1, exact.numel() + 1, dtype=torch.float64, device=exact.device).cos()
    aside = torch.nn.functional.normalize(pattern - exact * torch.dot(exact, pattern), dim=0)

    def turned(angle: float) -> Tensor:
        return (math.cos(angle) * exact + math.sin(angle) * aside).to(weight.dtype)

    def value(u: Tensor) -> float:
        return float(sigma(u, v))

    if not abs(value(turned(0.0)) - 1) <= _FOLDED:
        return turned(0.0), v
    least, most, angle = 0.0, math.pi / 2, 0.0
    for _ in range(_HALVINGS if value(turned(0.0)) > 1 else 0):
        angle = (least + most) / 2
        found = value(turned(angle))
        if found == 1:
            return turned(angle), v
        least, most = (angle, most) if found > 1 else (least, angle)
    return _with_one(turned(angle), v, sigma)


def _with_one(u: Tensor, v: Tensor, sigma: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the vectors with other last bits, so that ``sigma`` of them is 1; of ``u``, if that is long enough."""
    u = nearest(u, lambda tried: float(sigma(tried, v)), 1.0)
    return u, nearest(v, lambda tried: float(sigma(u, tried)), 1.0)


def nearest(u: Tensor, value: Callable[[Tensor], float], target: float) -> Tensor:
    """Return ``u`` with other last bits, so that ``value`` of it is ``target``, or as near as it gets.

    A sum of many rounded products jumps over some numbers; other last bits of its terms round in another way.
    """
    index = torch.arange(1, u.numel() + 1, dtype=torch.float64, device=u.device)
    best, least = u, abs(value(u) - target)
    for step in range(1, _ROUNDINGS):
        if not least:
            break
        few = min(step, _FEW) * torch.finfo(u.dtype).eps
        tried = (u.double() * (1 + few * torch.cos(step * index))).to(u.dtype)
        if (error := abs(value(tried) - target)) < least:
            best, least = tried, error
    return best


def first_vectors(weight: Tensor, kept: tuple[int, ...]) -> tuple[Tensor, Tensor, float]:
    """Return the first singular vectors of a weight and its largest singular value, in float64.

    They are exact where the value is near 1. Elsewhere they are estimates: no folded weight has such a value.
    """
    w = matrix(weight.double(), kept[0])
    index = torch.arange(1, w.shape[1] + 1, dtype=torch.float64, device=w.device)
    v = torch.nn.functional.normalize(index.cos(), dim=0)
    for _ in range(_STEPS):
        v = torch.nn.functional.normalize(w.T @ (w @ v), dim=0)
    if float(torch.linalg.vector_norm(w @ v)) <= 1 + _FOLDED:  # not so for NaN
        wide = w.shape[0] <= w.shape[1]
        last = torch.linalg.eigh(w @ w.T if wide else w.T @ w).eigenvectors[:, -1]
        v = torch.nn.functional.normalize(w.T @ last, dim=0) if wide else last
    u = w @ v
    return torch.nn.functional.normalize(u, dim=0), v, float(torch.linalg.vector_norm(u))


def unheld(weight: Tensor, kept: tuple[int, ...], title: str) -> Reason:
    """Return that a weight is no folded one, with its largest singular value."""
    largest = first_vectors(weight, kept)[2]
    shown = f"{largest:.13g}" if abs(largest - 1) <= _FOLDED else f"about {largest:.3g}"
    held = "what has 1, as folded weights have; the scheme spectral_norm divides by it"
    return Why.LAYOUT(what=f"has a largest singular value of {shown}", layout=title, held=held)


def _residual(w: Tensor, u: Tensor, v: Tensor | None) -> float:
    """Return how far the vectors are from a step of the power iteration; without ``v``, ``u`` from two of them."""
    u = torch.nn.functional.normalize(u, dim=0)
    back = torch.nn.functional.normalize(w.T @ u, dim=0)
    right = back if v is None else torch.nn.functional.normalize(v, dim=0)
    forward = float(torch.linalg.vector_norm(torch.nn.functional.normalize(w @ right, dim=0) - u))
    backward = forward if v is None else float(torch.linalg.vector_norm(back - right))
    nearest = min(forward, backward)
    return nearest if math.isfinite(nearest) else math.inf


def _list(dims: list[int]) -> str:
    return " and ".join(map(str, dims))
