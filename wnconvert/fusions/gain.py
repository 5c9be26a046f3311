"""Gains and shifts: what multiplies an activation channel by channel, and what is added to it.

    y = x * weight + bias

These are the affine end of layer norm (Ba et al. 2016, https://arxiv.org/abs/1607.06450) and of RMS norm (Zhang &
Sennrich 2019, https://arxiv.org/abs/1910.07467), whose normalization itself depends on the data and stays; LayerScale
(Touvron et al. 2021, https://arxiv.org/abs/2103.17239); the constants of an equalized learning rate (Karras et al.
2018, https://arxiv.org/abs/1710.10196); mean-only batch norm (Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868);
and frozen batch norms that are written out.
"""

from __future__ import annotations

from collections.abc import Mapping

from wnconvert.fusion import Affine, Fusion, register
from wnconvert.lazy import Tensor


@register
class Gain(Fusion):
    """The gain and the bias of a layer norm or RMS norm, LayerScale, and other constants beside a layer."""

    name = "gain"
    formula = "scale = weight; shift = bias"
    reference = "https://arxiv.org/abs/1607.06450"

    def affine(self, tensors: Mapping[str, Tensor], eps: float) -> Affine:
        """Return the map; either tensor may be missing."""
        scale, shift = tensors.get("weight"), tensors.get("bias")
        return Affine(None if scale is None else scale.double(), None if shift is None else shift.double())
