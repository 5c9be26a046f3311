"""Spectral normalization: the largest singular value of each weight is 1.

    w = orig / sigma,  sigma = u^T W v

Miyato et al. 2018, https://arxiv.org/abs/1802.05957. ``u`` and ``v`` follow the first singular vectors of the matrix
``W`` by power iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wnconvert.lazy import Tensor
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._spectral import SpectralScheme, singular_vectors


@register
@dataclass(frozen=True)
class SpectralNorm(SpectralScheme):
    """Spectral normalization, ``w = orig / (u^T W v)``.

    Parts are ``orig`` (the weight's shape) and the state ``u`` and ``v``, vectors as long as ``W`` has rows and
    columns. The weight loses its largest singular value, so the function changes. Given the same parts, weight and
    state follow `torch.nn.utils.parametrizations.spectral_norm`.

    Attributes:
        power_iterations: how many are made in each training forward; with 0, ``u`` and ``v`` stay as they are.
        eps: least norm that ``u`` and ``v`` are divided by.
    """

    name = "spectral_norm"
    variants = {("orig", "u", "v"): {}}
    formula = "w = orig / (u @ W @ v)"
    reference = "https://arxiv.org/abs/1802.05957"

    @property
    def preserving(self) -> bool:
        """False: the largest singular value is lost."""
        return False

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``orig``, and its first singular vectors."""
        u, v = singular_vectors(weight, spec)
        return {"orig": weight.clone(), "u": u, "v": v}

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``orig / sigma``."""
        orig = parts["orig"]
        return spec.laid_out(orig / statistics[0], orig)
