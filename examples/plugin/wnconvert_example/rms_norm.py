"""A scheme: the root mean square of each weight vector is a parameter of its own.

w = rms_scale * rms_raw / rms(rms_raw)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wnconvert import Scheme, WeightSpec
from wnconvert.scheme import Parts


@dataclass(frozen=True)
class RmsNorm(Scheme):
    """Normalization by the root mean square, ``w = rms_scale * rms_raw / rms(rms_raw)``.

    Attributes:
        eps: least root mean square, so that weights of zeros stay finite.
    """

    eps: float = 1e-7

    name = "rms_norm"
    variants = {("rms_scale", "rms_raw"): {}}
    direction = "rms_raw"
    magnitude = "rms_scale"
    multiplies = True
    formula = "w = rms_scale * rms_raw / max(rms(rms_raw), eps)"
    reference = "https://arxiv.org/abs/1910.07467"

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight itself, and its root mean square."""
        return {"rms_scale": self._rms(weight, spec), "rms_raw": weight.clone()}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return ``rms_raw * (rms_scale / rms)``: the ratio is exactly 1 where both are the same."""
        raw = parts["rms_raw"]
        return spec.laid_out(raw * (parts["rms_scale"] / self._rms(raw, spec)), raw)

    def _rms(self, raw: Tensor, spec: WeightSpec) -> Tensor:
        norm = torch.linalg.vector_norm(raw, 2.0, spec.dims, keepdim=bool(spec.kept)) if spec.dims else raw.abs()
        return torch.clamp(norm / max(spec.fan_in, 1) ** 0.5, min=self.eps)
