"""Unit norm: weight vectors on a sphere, as in cosine heads.

    w = length * direction / ||direction||

Loshchilov et al. 2024 (nGPT), https://arxiv.org/abs/2410.01131.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._closed import ClosedScheme, across
from wnconvert.schemes._eager import times
from wnconvert.schemes._norms import norm, repaired, usable


@register
@dataclass(frozen=True)
class UnitNorm(ClosedScheme):
    """Unit norm, ``w = length * direction / norm(direction)``.

    The only part is ``direction`` (the weight's shape): each weight vector loses its length, so the function changes.

    Attributes:
        length: the length that all weight vectors have.
    """

    length: float = 1.0

    name = "unit_norm"
    positive = ("length",)
    variants = {("direction",): {}}
    direction = "direction"
    multiplies = True
    formula = "w = length * direction / norm(direction)"
    reference = "https://arxiv.org/abs/2410.01131"

    @property
    def preserving(self) -> bool:
        """False: the lengths are lost."""
        return False

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``direction``, rescaled if a norm is zero or overflows."""
        direction = weight.clone()
        return {"direction": direction if usable(norm(direction, spec)) else repaired(direction, spec)[0]}

    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return the norms of ``direction``."""
        return (norm(parts["direction"], spec),)

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``direction / norm(direction) * length``."""
        direction = parts["direction"]
        unit = direction / statistics[0]
        return spec.laid_out(unit if self.length == 1 else times(unit, self.length), direction)

    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return ``length / norm`` times what of the gradient is across the direction."""
        length = statistics[0]
        return {"direction": across(gradient, parts["direction"], torch.full_like(length, self.length), length, spec)}

    def divisor(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the norms of ``direction``."""
        return norm(parts["direction"], spec)
