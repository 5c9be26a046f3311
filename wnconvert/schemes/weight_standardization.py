"""Weight standardization: each weight vector has mean zero and variance one.

    w = gain * (raw - mean(raw)) / sqrt(var(raw) + eps) + shift

Qiao et al. 2019, https://arxiv.org/abs/1903.10520. The paper has no ``gain`` and ``shift``; with them, any weight can
be expressed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._closed import ClosedScheme, across_centered
from wnconvert.schemes._eager import less
from wnconvert.schemes._norms import mean, std, std_with_eps


@register
@dataclass(frozen=True)
class WeightStandardization(ClosedScheme):
    """Weight standardization, ``w = gain * (raw - mean(raw)) / sqrt(var(raw) + eps) + shift``.

    Parts are ``gain`` and ``shift`` (kept shape) and ``raw`` (the weight's shape), or ``raw`` alone without
    ``affine``. The plain form is the paper's and changes the function; a normalization layer behind the op, which the
    paper assumes, takes back most of it. The projects differ: timm has the defaults with ``eps=1e-6`` (1e-8 for
    BiT), the authors and mmcv's ``ConvWS2d`` have ``unbiased`` and not ``eps_in_root``, mmcv's ``ConvAWS2d``
    ``unbiased``.

    Attributes:
        affine: give each weight vector a standard deviation and a mean of its own, ``gain`` and ``shift``.
        eps: what is added to the variance, or to its root.
        unbiased: divide the variance by one less than the number of elements.
        eps_in_root: add ``eps`` to the variance; else to the standard deviation.
    """

    affine: bool = True
    eps: float = 1e-5
    unbiased: bool = False
    eps_in_root: bool = True

    name = "weight_standardization"
    positive = ("eps",)
    variants = {("gain", "shift", "raw"): {"affine": True}, ("raw",): {"affine": False}}
    direction = "raw"
    magnitude = "gain"
    proportional = ("gain", "shift")
    default_dim = "output"
    worthwhile = 2**14
    formula = "w = gain * (raw - mean(raw)) / sqrt(var(raw) + eps) + shift"
    reference = "https://arxiv.org/abs/1903.10520"

    @property
    def preserving(self) -> bool:
        """Whether mean and standard deviation are kept."""
        return self.affine

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``raw``, with its own standard deviation and mean as ``gain`` and ``shift``."""
        raw = weight.clone()
        if not self.affine:
            return {"raw": raw}
        # where nothing is reduced, the mean is raw itself, which must not be shared
        return {"gain": self._divisor(raw, spec), "shift": mean(raw, spec).clone(), "raw": raw}

    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return the means of ``raw``, and what it is divided by: its standard deviations with ``eps``."""
        return mean(parts["raw"], spec), self._divisor(parts["raw"], spec)

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``(raw - mean) * r + shift`` with ``r = gain / std``, the two means taken together.

        At split time ``r`` is exactly 1 and ``mean * r - shift`` is exactly +0, which changes no bit of ``raw``.
        """
        raw = parts["raw"]
        center, divisor = statistics
        if not self.affine:
            return spec.laid_out((raw - center) / divisor, raw)
        ratio = parts["gain"] / divisor
        return spec.laid_out(less(raw * ratio, center * ratio - parts["shift"]), raw)

    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return the gradients."""
        center, divisor = statistics
        gain = parts["gain"] if self.affine else torch.ones_like(divisor)
        found = across_centered(gradient, parts["raw"], center, gain, 1 / divisor, spec, "raw" in wanted)
        return {"raw": found[0], "gain": found[1], "shift": found[2]}

    def has_gradients(self, parts: Parts, spec: WeightSpec) -> bool:
        """Whether the standard deviation is that of a batch norm, too."""
        return self.eps_in_root and not self.unbiased and super().has_gradients(parts, spec)

    def infer_kept(self, parts: Parts, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the kept dims that the shape of ``gain`` shows; ``raw`` alone tells nothing."""
        return super().infer_kept(parts, default) if self.affine else default

    def _divisor(self, raw: Tensor, spec: WeightSpec) -> Tensor:
        if self.eps_in_root:
            return std_with_eps(raw, spec, self.eps, self.unbiased)
        return std(raw, spec, self.unbiased) + self.eps
