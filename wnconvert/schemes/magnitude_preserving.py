"""Magnitude-preserving weights: an op that keeps the magnitude of independent unit-variance inputs.

    w = gain / sqrt(fan_in) * mp / (eps + ||mp|| / sqrt(fan_in))

Karras et al. 2024 (EDM2), https://arxiv.org/abs/2312.02696, equations 47 and 66.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._closed import ClosedScheme, across
from wnconvert.schemes._eager import times
from wnconvert.schemes._norms import norm, root_fan_in


@register
@dataclass(frozen=True)
class MagnitudePreserving(ClosedScheme):
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

    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return the norms of ``mp``."""
        return (norm(parts["mp"], spec),)

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``mp / (eps + rms(mp)) * (gain / sqrt(fan_in))``.

        In this order the gradient of zeros stays finite in float16, where ``eps**-2`` would not.
        """
        mp = parts["mp"]
        unit = mp / self._plus_eps(statistics[0], spec)
        return spec.laid_out(times(unit, self.gain / root_fan_in(spec)), mp)

    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return the gradient of ``mp``; the norm of a vector of zeros counts as constant."""
        (length,) = statistics
        magnitude = self._plus_eps(length, spec)
        # what the derivative of the magnitude divides by, mp / (length * sqrt(fan_in)), taken together with it
        both = torch.sqrt(magnitude * length * root_fan_in(spec)).masked_fill_(length == 0, 1.0)
        g = both / magnitude * (self.gain / root_fan_in(spec))
        return {"mp": across(gradient, parts["mp"], g, both, spec)}

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the magnitudes of ``mp``: the forced weight normalization of the paper."""
        return self._magnitude(parts["mp"], spec)

    def _magnitude(self, mp: Tensor, spec: WeightSpec) -> Tensor:
        """Root mean square, plus ``eps``."""
        return self._plus_eps(norm(mp, spec), spec)

    def _plus_eps(self, length: Tensor, spec: WeightSpec) -> Tensor:
        return length / root_fan_in(spec) + self.eps
