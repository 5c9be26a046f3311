"""Batch norm with the statistics that it gathered in training: an affine map.

    y = (x - running_mean) / sqrt(running_var + eps) * weight + bias

Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167.
"""

from __future__ import annotations

from collections.abc import Mapping

from wnconvert.fusion import Affine, Fusion, register
from wnconvert.lazy import Tensor


@register
class BatchNorm(Fusion):
    """Batch norm in evaluation, of any number of dims."""

    name = "batch_norm"
    formula = "scale = weight / sqrt(running_var + eps); shift = bias - running_mean * scale"
    reference = "https://arxiv.org/abs/1502.03167"

    def affine(self, tensors: Mapping[str, Tensor], eps: float) -> Affine:
        """Return the map of all channels; ``running_mean`` and ``running_var`` must be there."""
        scale = (tensors["running_var"].double() + eps).rsqrt()
        if "weight" in tensors:
            scale = scale * tensors["weight"].double()
        shift = -tensors["running_mean"].double() * scale
        return Affine(scale, shift + tensors["bias"].double() if "bias" in tensors else shift)
