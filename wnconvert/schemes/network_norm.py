"""Network normalization: one norm, and one magnitude, across all chosen weights.

    w_i = g * v_i / sqrt(sum_j ||v_j||^2)

The weights move on one sphere, so that what a layer gains in length another must lose. It is weight normalization
(Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868) with the whole network as the one weight vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, Scheme, WeightSpec, register
from wnconvert.schemes._norms import norm


@register
@dataclass(frozen=True)
class NetworkNorm(Scheme):
    """Network normalization, ``w_i = network_g * network_v_i / sqrt(sum_j norm(network_v_j)^2)``.

    Each weight has the part ``network_v`` (the weight's shape); all have ``network_g`` (one number) in common. Weights
    of several dtypes may be mixed: the norm is taken in the widest.

    Attributes:
        eps: least norm, so that a network of zeros stays finite and can learn; float16 can hold the default.
    """

    eps: float = 1e-7

    name = "network_norm"
    positive = ("eps",)
    variants = {("network_v",): {}}
    direction = "network_v"
    multiplies = True
    shared = ("network_g",)
    default_dim = None
    formula = "w = network_g * network_v / max(norm(every_network_v), eps)"
    reference = "https://arxiv.org/abs/1602.07868"

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight itself as ``network_v``."""
        return {"network_v": weight.clone()}

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return ``network_v * (network_g / network_norm)``: the ratio is exactly 1 where both are the same norm."""
        v = parts["network_v"]
        # in a network of several dtypes the ratio may be wider than v, which shows where v has no dims
        return spec.laid_out((v * (parts["network_g"] / parts["network_norm"])).type_as(v), v)

    def gather(self, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
        """Return ``network_norm``, the norm of all weights together."""
        norms = [norm(own["network_v"], replace(spec, kept=())) for own, spec in zip(parts, specs, strict=True)]
        stacked = torch.stack(norms)
        # in the dtype of the norms under autocast too, as at split time
        total = torch.linalg.vector_norm(stacked).type_as(stacked)
        return {"network_norm": torch.clamp(total, min=self.eps)}

    def split_shared(self, parts: Sequence[Parts], specs: Sequence[WeightSpec]) -> dict[str, Tensor]:
        """Return that same norm as ``network_g``."""
        return {"network_g": self.gather(parts, specs)["network_norm"]}
