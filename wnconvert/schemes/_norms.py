"""Statistics over reduced dims, written so that they run on tensors and on proxies alike."""

from __future__ import annotations

import math

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import WeightSpec
from wnconvert.schemes._deviation import quick_std
from wnconvert.schemes._eager import computes_only, is_differentiated


def norm(v: Tensor, spec: WeightSpec, p: float = 2.0) -> Tensor:
    """Return the p-norm of ``v`` over the reduced dims, in the shape ``spec.kept_shape`` and the dtype of ``v``.

    torch takes an empty list of dims to mean all of them, so a weight with nothing to reduce needs its own branch.
    """
    if not spec.dims:
        return v.abs()
    return rounded(torch.linalg.vector_norm(v, p, spec.dims, keepdim=bool(spec.kept)), v, spec)


def mean(v: Tensor, spec: WeightSpec) -> Tensor:
    """Return the mean of ``v`` over the reduced dims, in the shape ``spec.kept_shape``."""
    return torch.mean(v, spec.dims, keepdim=bool(spec.kept)) if spec.dims else v


def std(v: Tensor, spec: WeightSpec, unbiased: bool = False) -> Tensor:
    """Return the standard deviation of ``v`` over the reduced dims, in the shape ``spec.kept_shape``.

    It is 0 where there is but one element, ``unbiased`` or not.
    """
    if not spec.dims:
        return torch.zeros_like(v)
    less = correction(spec, unbiased)
    found = quick_std(v, spec, less) if computes_only(v) and not is_differentiated(v) else None
    return torch.std(v, spec.dims, correction=less, keepdim=bool(spec.kept)) if found is None else found


def correction(spec: WeightSpec, unbiased: bool) -> int:
    """Return how much less than the number of elements a variance is divided by."""
    return int(unbiased and spec.fan_in > 1)


def std_with_eps(v: Tensor, spec: WeightSpec, eps: float, unbiased: bool = False) -> Tensor:
    """Return ``sqrt(var(v) + eps)``."""
    return with_eps(std(v, spec, unbiased), eps)


def with_eps(deviation: Tensor, eps: float) -> Tensor:
    """Return ``sqrt(deviation**2 + eps)``.

    A variance would underflow in float16 where its root does not, so both roots are put in proportion to their sum
    before they are squared. `torch.hypot` does the same, but has no translation to ONNX.
    """
    scale = deviation + eps**0.5
    share = deviation / scale
    return scale * torch.sqrt(share * share + (1 - share) * (1 - share))


def root_fan_in(spec: WeightSpec) -> float:
    """Return ``sqrt(fan_in)``, and 1 for a weight without elements."""
    return math.sqrt(max(spec.fan_in, 1))


def rounded(x: Tensor, like: Tensor, spec: WeightSpec) -> Tensor:
    """Return the statistic ``x`` in the dtype of ``like``.

    In half precision autocast would give it in float32: rounded back, it stays what it was at split time.
    """
    return x.type_as(like) if spec.half else x


def largest(weight: Tensor, spec: WeightSpec) -> Tensor:
    """Return the largest magnitude over the reduced dims, in the shape ``spec.kept_shape``."""
    return norm(weight, spec, float("inf"))


def usable(x: Tensor) -> bool:
    """Whether every norm in ``x`` is positive and finite; taken to be so on the meta device, which has no values."""
    if x.is_meta:
        return True
    least, most = torch.aminmax(x)
    return least.item() > 0 and most.item() < math.inf


def repaired(weight: Tensor, spec: WeightSpec) -> tuple[Tensor, Tensor]:
    """Return ``weight`` with a usable norm in every channel, and the power of two taken out of each.

    A channel of zeros becomes ones with the signs of its zeros: a direction that has a norm and can learn again
    (pytorch/pytorch#19126). Every channel is brought to about unit size, so that its sum of squares neither underflows
    nor overflows; powers of two change no mantissa, so that is undone exactly.
    """
    peak = largest(weight, spec)
    exponent = torch.frexp(peak.double()).exponent
    exponent = torch.where(torch.isfinite(peak), exponent, torch.zeros_like(exponent))
    scaled = times_power_of_two(weight, -exponent)
    directions = torch.where(peak == 0, torch.copysign(torch.ones_like(weight), weight), scaled)
    return spec.laid_out(directions, weight), exponent


def times_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """Return ``x * 2**exponent``, in two steps so that neither factor leaves the range of float64."""
    half = torch.div(exponent, 2, rounding_mode="floor")
    two = torch.full_like(half, 2, dtype=torch.float64)
    return (x.double() * two.pow(half) * two.pow(exponent - half)).to(x.dtype)
