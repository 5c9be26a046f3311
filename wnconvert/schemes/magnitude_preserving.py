"""Magnitude-preserving weights: an op that keeps the magnitude of independent unit-variance inputs.

    w = gain / sqrt(fan_in) * mp / (eps + ||mp|| / sqrt(fan_in))

Karras et al. 2024 (EDM2), https://arxiv.org/abs/2312.02696, equations 47 and 66.
"""

from __future__ import annotations

from dataclasses import dataclass

from wnconvert.lazy import Tensor
from wnconvert.scheme import Parts, Scheme, WeightSpec, register
from wnconvert.schemes._norms import norm, root_fan_in


@register
@dataclass(frozen=True)
class MagnitudePreserving(Scheme):
    """Magnitude-preserving weights, ``w = gain / sqrt(fan_in) * mp / (eps + norm(mp) / sqrt(fan_in))``.

    The only part is ``mp`` (the weight's shape): each weight vector loses its length, so the function changes.

    Attributes:
        gain: magnitude of the output.
        eps: what is added to the root mean square of a weight vector, so that one of zeros stays finite.
    """

    gain: float = 1.0
    eps: float = 1e-4

    name = "magnitude_preserving"
    positive = ("gain", "eps")
    variants = {("mp",): {}}
    direction = "mp"
    multiplies = True
    default_dim = "output"
    formula = "w = gain / sqrt(fan_in) * mp / (eps + norm(mp) / sqrt(fan_in))"
    reference = "https://arxiv.org/abs/2312.02696"

    @property
    def preserving(self) -> bool:
        """False: the lengths are lost."""
        return False

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return ``mp`` as the paper's forced normalization stores it, every element of about unit magnitude."""
        return {"mp": spec.laid_out(weight / self._magnitude(weight, spec), weight)}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return ``mp / (eps + rms(mp)) * (gain / sqrt(fan_in))``.

        In this order the gradient of zeros stays finite in float16, where ``eps**-2`` would not.
        """
        mp = parts["mp"]
        return spec.laid_out(mp / self._magnitude(mp, spec) * (self.gain / root_fan_in(spec)), mp)

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the magnitudes of ``mp``: the forced weight normalization of the paper."""
        return self._magnitude(parts["mp"], spec)

    def _magnitude(self, mp: Tensor, spec: WeightSpec) -> Tensor:
        """Root mean square, plus ``eps``."""
        return norm(mp, spec) / root_fan_in(spec) + self.eps
