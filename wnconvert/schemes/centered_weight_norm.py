"""Centered weight normalization: the direction of each weight vector has mean zero.

    w = g * (c - mean(c)) / ||c - mean(c)|| + shift

Huang et al. 2017, https://openaccess.thecvf.com/content_iccv_2017/html/Huang_Centered_Weight_Normalization_ICCV_2017_paper.html.
The paper has no ``shift``; with it, any weight can be expressed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._closed import ClosedScheme, across_centered
from wnconvert.schemes._eager import less, times
from wnconvert.schemes._norms import mean, norm, root_fan_in


@register
@dataclass(frozen=True)
class CenteredWeightNorm(ClosedScheme):
    """Centered weight normalization, ``w = g * (c - mean(c)) / norm(c - mean(c)) + shift``.

    Parts are ``g`` and ``shift`` (kept shape) and ``c`` (the weight's shape); without ``shift`` the weight loses its
    mean, so the function changes.

    Attributes:
        shift: give each weight vector a mean of its own, ``shift``, as well.
        eps: least norm, so that a nearly constant weight vector stays finite; float16 can hold the default.
    """

    shift: bool = True
    eps: float = 1e-7

    name = "centered_weight_norm"
    positive = ("eps",)
    variants = {("g", "shift", "c"): {"shift": True}, ("g", "c"): {"shift": False}}
    direction = "c"
    magnitude = "g"
    proportional = ("g", "shift")
    formula = "w = g * (c - mean(c)) / max(norm(c - mean(c)), eps) + shift"
    reference = (
        "https://openaccess.thecvf.com/content_iccv_2017/html/Huang_Centered_Weight_Normalization_ICCV_2017_paper.html"
    )

    @property
    def preserving(self) -> bool:
        """Whether the mean is kept."""
        return self.shift

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``c``, the norm of what it is without its mean as ``g``, and that mean as ``shift``.

        A constant weight vector, which has no direction, gets one, with ``g = 0`` and itself as ``shift``.
        """
        constant, value = _constant(weight, spec)
        c = spec.laid_out(torch.where(constant, torch.copysign(_ramp(weight, spec), weight), weight), weight)
        center = mean(c, spec)
        g = torch.where(constant, torch.zeros_like(center), self._norm(c, center, spec))
        # 0 - (0 - shift) is -0 at no sign of c only if shift is -0
        shift = torch.where(constant, torch.where(value == 0, -torch.zeros_like(value), value), center)
        return {"g": g, "shift": shift, "c": c} if self.shift else {"g": g, "c": c}

    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return the means of ``c``, and the norms of it without them."""
        c = parts["c"]
        center = mean(c, spec)
        return center, self._norm(c, center, spec)

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``(c - mean) * r + shift`` with ``r = g / norm``, the two means taken together.

        At split time ``r`` is exactly 1 and ``mean * r - shift`` is exactly +0, which changes no bit of ``c``.
        """
        c = parts["c"]
        center, length = statistics
        ratio = parts["g"] / length
        if self.shift:
            return spec.laid_out(less(c * ratio, center * ratio - parts["shift"]), c)
        return spec.laid_out(times(c - center, ratio), c)

    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return the gradients; a norm that ``eps`` takes the place of counts as constant."""
        center, length = statistics
        root = root_fan_in(spec)
        # where eps takes the place of the norm, c is so small that its product with the gradient counts for nothing
        found = across_centered(gradient, parts["c"], center, parts["g"] / root, root / length, spec, "c" in wanted)
        return {"c": found[0], "g": found[1] / root, "shift": found[2]}

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the norms of ``c`` without its mean, and 1 where one is so small that ``eps`` takes its place."""
        c = parts["c"]
        length = self._norm(c, mean(c, spec), spec)
        return torch.where(length > self.eps, length, torch.ones_like(length))

    def _norm(self, c: Tensor, center: Tensor, spec: WeightSpec) -> Tensor:
        if spec.fan_in == 1:
            return torch.ones_like(center)  # a single number has no direction, so that there is nothing to divide by
        return torch.clamp(norm(c - center, spec), min=self.eps)


def _constant(weight: Tensor, spec: WeightSpec) -> tuple[Tensor, Tensor]:
    """Return where all elements of a weight vector are one number, and which; nowhere if it has but one element."""
    if spec.fan_in == 1:
        value = mean(weight, spec).clone()
        return torch.zeros_like(value, dtype=torch.bool), value
    low, high = (f(weight, spec.dims, keepdim=bool(spec.kept)) for f in (torch.amin, torch.amax))
    return low == high, high


def _ramp(weight: Tensor, spec: WeightSpec) -> Tensor:
    """Return ones and twos in turn along a reduced dim, in the weight's shape: not constant, whatever the signs."""
    result = torch.ones_like(weight)
    for dim in spec.dims:
        if weight.shape[dim] > 1:
            result.narrow(dim, 0, 1).fill_(2.0)
            break
    return result
