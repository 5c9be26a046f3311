"""Scaled weight standardization, of normalizer-free networks.

    w = gain * gamma / sqrt(fan_in) * (raw - mean(raw)) / sqrt(var(raw) + eps)

Brock et al. 2021, https://arxiv.org/abs/2101.08692.
"""

from __future__ import annotations

from dataclasses import dataclass

from wnconvert.lazy import Tensor
from wnconvert.scheme import Parts, Scheme, WeightSpec, register
from wnconvert.schemes._norms import mean, root_fan_in, std_with_eps


@register
@dataclass(frozen=True)
class ScaledWeightStandardization(Scheme):
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
    formula = "w = gain * gamma / sqrt(fan_in) * (raw - mean(raw)) / sqrt(var(raw) + eps)"
    reference = "https://arxiv.org/abs/2101.08692"

    @property
    def preserving(self) -> bool:
        """False: the mean is lost."""
        return False

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``raw``, and the ``gain`` that gives it back if its mean is zero."""
        return {"gain": std_with_eps(weight, spec, self.eps) / self._scale(spec), "raw": weight.clone()}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return ``(raw - mean) * r`` with ``r = gain * gamma / sqrt(fan_in) / std``."""
        raw = parts["raw"]
        ratio = parts["gain"] * self._scale(spec) / std_with_eps(raw, spec, self.eps)
        return spec.laid_out((raw - mean(raw, spec)) * ratio, raw)

    def _scale(self, spec: WeightSpec) -> float:
        return self.gamma / root_fan_in(spec)
