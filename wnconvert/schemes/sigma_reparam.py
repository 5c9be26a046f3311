"""Sigma reparametrization: the largest singular value of each weight is a parameter of its own.

    w = gamma * orig / sigma,  sigma = u^T W v

Zhai et al. 2023, https://arxiv.org/abs/2303.06296. ``u`` and ``v`` follow the first singular vectors of the matrix
``W`` by power iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wnconvert.lazy import Tensor, torch
from wnconvert.scheme import Parts, WeightSpec, register
from wnconvert.schemes._norms import largest, norm, repaired, times_power_of_two, usable
from wnconvert.schemes._spectral import SpectralScheme, image, matrix, sigma, sigma_along, singular_vectors


@register
@dataclass(frozen=True)
class SigmaReparam(SpectralScheme):
    """Sigma reparametrization, ``w = gamma * orig / (u^T W v)``.

    Parts are ``gamma`` (one number), ``orig`` (the weight's shape) and the state ``u`` and ``v``, vectors as long as
    ``W`` has rows and columns.

    Attributes:
        power_iterations: how many are made in each training forward; with 0, ``u`` and ``v`` stay as they are.
        eps: least norm that ``u`` and ``v`` are divided by.
    """

    name = "sigma_reparam"
    variants = {("gamma", "orig", "u", "v"): {}}
    proportional = ("gamma",)
    formula = "w = gamma * orig / (u @ W @ v)"
    reference = "https://arxiv.org/abs/2303.06296"

    def split(self, weight: Tensor, spec: WeightSpec) -> dict[str, Tensor]:
        """Return the weight as ``orig``, its sigma as ``gamma``, and its first singular vectors.

        A weight whose norm is zero or overflows is rescaled; one of zeros becomes ones, with ``gamma = 0``.
        """
        whole = replace(spec, kept=())
        orig, exponent = weight.clone(), None
        if not usable(norm(weight, whole)):
            orig, exponent = repaired(weight, whole)
        u, v = singular_vectors(orig, spec)
        gamma = sigma(orig, u, v, spec)
        if exponent is not None:
            zero = largest(weight, whole) == 0
            gamma = torch.where(zero, torch.zeros_like(gamma), times_power_of_two(gamma, exponent))
        return {"gamma": gamma, "orig": orig, "u": u, "v": v}

    def update(self, parts: Parts, spec: WeightSpec) -> dict[str, Tensor]:
        """Return ``u`` and ``v`` after the power iterations of one training forward, or as they are.

        As long as ``gamma`` is just sigma, as split leaves it, nothing was trained yet. An iteration would change sigma
        by a rounding, and with it the weight. (What split had to rescale, because its norm over- or underflows, follows
        at once.)
        """
        if not self.dynamic:
            return {}
        gamma, orig, u, v = parts["gamma"].detach(), parts["orig"].detach(), parts["u"], parts["v"]
        w = matrix(orig, spec)
        wv = image(w, v, spec)
        untrained = torch.eq(gamma, sigma_along(u, wv, spec))
        new = self.iterated(w, u, v, wv, spec)
        return {"u": torch.where(untrained, u, new["u"]), "v": torch.where(untrained, v, new["v"])}

    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return ``orig * (gamma / sigma)``: the ratio is exactly 1 where ``gamma`` is that same sigma."""
        orig = parts["orig"]
        return spec.laid_out(orig * (parts["gamma"] / statistics[0]), orig)
