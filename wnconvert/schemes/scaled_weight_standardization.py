"""Scaled weight standardization, of normalizer-free networks.

    w = gain * gamma / sqrt(fan_in) * (raw - mean(raw)) / sqrt(var(raw) + eps)

Brock et al. 2021, https://arxiv.org/abs/2101.08692.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wnconvert.lazy import Tensor
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._closed import ClosedScheme, across_centered
from wnconvert.schemes._eager import times
from wnconvert.schemes._norms import mean, root_fan_in, std_with_eps


@register
@dataclass(frozen=True)
class ScaledWeightStandardization(ClosedScheme):
    """Scaled weight standardization, ``w = gain * gamma / sqrt(fan_in) * (raw - mean(raw)) / sqrt(var(raw) + eps)``.

    Parts are ``gain`` (kept shape) and ``raw`` (the weight's shape), as in timm's ``ScaledStdConv2d``. The weight
    loses its mean, so the function changes; the gain is chosen so that nothing else does.

    Attributes:
        gamma: the constant of the activation that precedes the op; timm may apply it in the activation instead.
        eps: what is added to the variance; timm's networks have 1e-5.
    """

    gamma: float = 1.0
    eps: float = 1e-6

    name = "scaled_weight_standardization"
    positive = ("gamma", "eps")
    variants = {("gain", "raw"): {}}
    direction = "raw"
    magnitude = "gain"
    proportional = ("gain",)
    default_dim = "output"
    worthwhile = 2**14
    formula = "w = gain * gamma / sqrt(fan_in) * (raw - mean(raw)) / sqrt(var(raw) + eps)"
    reference = "https://arxiv.org/abs/2101.08692"

    @property
    def preserving(self) -> bool:
        """False: the mean is lost."""
        return False

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``raw``, and the ``gain`` that gives it back if its mean is zero."""
        return {"gain": std_with_eps(weight, spec, self.eps) / self._scale(spec), "raw": weight.clone()}

    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return the means of ``raw``, and its standard deviations."""
        return mean(parts["raw"], spec), std_with_eps(parts["raw"], spec, self.eps)

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``(raw - mean) * r`` with ``r = gain * gamma / sqrt(fan_in) / std``."""
        raw, (center, divisor) = parts["raw"], statistics
        ratio = parts["gain"] * self._scale(spec) / divisor
        return spec.laid_out(times(raw - center, ratio), raw)

    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return the gradients."""
        center, divisor = statistics
        scale, wanted_raw = self._scale(spec), "raw" in wanted
        found = across_centered(gradient, parts["raw"], center, parts["gain"] * scale, 1 / divisor, spec, wanted_raw)
        return {"raw": found[0], "gain": found[1] * scale}

    def _scale(self, spec: WeightSpec) -> float:
        return self.gamma / root_fan_in(spec)
