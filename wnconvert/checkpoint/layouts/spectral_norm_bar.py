"""The third-party ``SpectralNorm(nn.Module)`` wrapper: ``conv.module.weight_bar``, ``weight_u`` and ``weight_v``.

From christiancosgrove/pytorch-spectral-normalization-gan (spectral_normalization.py) it was copied into many projects.
The wrapper makes one power iteration in every forward, in evaluation too, so the weight that it uses is not that of the
stored vectors but of the next ones. It calls its inner module ``module``, and so do the folded keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wnconvert.checkpoint.content.shapes import fitting_dims
from wnconvert.checkpoint.layout import Group, Layout, Listing, Migrated, register
from wnconvert.checkpoint.layouts import _spectral_norm
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason


@register
@dataclass(frozen=True)
class SpectralNormBar(Layout):
    """Keys ``X_bar``, ``X_u`` and ``X_v``; the kept dim is always the first.

    Attributes:
        iterations: power iterations in each forward.
    """

    iterations: int = 1

    name = "spectral_norm_bar"
    title = "the SpectralNorm wrapper with weight_bar"
    spells = {"spectral_norm": ("u", "v", "bar")}
    direction = {"spectral_norm": "bar"}

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the triples in which ``u`` and ``v`` are as long as the rows and columns."""
        for stem, found in listing.by_suffix(("_bar", "_u", "_v")).items():
            keys = {suffix[1:]: key for suffix, key in found.items()}
            if "bar" not in keys or len(keys) < 3:
                continue
            if 0 in fitting_dims(*(listing.shapes[keys[part]] for part in ("bar", "u", "v"))):
                yield Group(stem, self.name, "spectral_norm", keys, (0,))
            else:
                yield Group(stem, self.name, None, keys, problem=listing.misfit(keys))

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight after the power iterations of one forward."""
        bar = parts["bar"]
        return bar / self._sigma(parts).expand_as(bar)

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the folded weight itself and vectors whose next ones are its singular vectors."""
        u, v = _spectral_norm.held_vectors(weight, (0,), lambda u, v: self._sigma({"bar": weight, "u": u, "v": v}))
        return {"u": u, "v": v, "bar": weight}

    def trained(self, group: Group) -> tuple[str, ...]:
        """Return all keys: the wrapper makes parameters of the vectors too, without gradients."""
        return tuple(group.keys.values())

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return that the largest singular value is not 1."""
        return _spectral_norm.unheld(weight, (0,), self.title)

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.module.weight_bar``."""
        return f"{self.wrapped(stem)}_{part}"

    def named(self, stem: str) -> bool:
        """Return whether a name is that of the one parameter that the wrapper takes by default."""
        return stem.rpartition(".")[2] == "weight"

    def wrapped(self, stem: str) -> str:
        """Return ``conv.module.weight``."""
        module, dot, name = stem.rpartition(".")
        return f"{module}{dot}module.{name}"

    def unwrapped(self, stem: str) -> tuple[str, str] | None:
        """Return ``conv.module.`` and ``conv.``."""
        module, _, _ = stem.rpartition(".")
        outer, _, inner = module.rpartition(".")
        return (f"{module}.", f"{outer}." if outer else "") if inner == "module" else None

    def migrated(self, group: Group, parts: Mapping[str, Tensor]) -> Migrated:
        """Return the vectors that one forward leaves, for torch's modules divide by what they store."""
        u, v = self._advanced(parts)
        names = {"orig" if part == "bar" else part: part for part in group.keys}
        note = "the wrapper with 'weight_bar' makes an iteration in each forward; its result was stored"
        return Migrated(names, {"u": u, "v": v}, note)

    def _advanced(self, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        w, u, v = parts["bar"].reshape(parts["bar"].shape[0], -1), parts["u"], parts["v"]
        for _ in range(self.iterations):
            v = _normalized(torch.mv(torch.t(w), u))
            u = _normalized(torch.mv(w, v))
        return u, v

    def _sigma(self, parts: Mapping[str, Tensor]) -> Tensor:
        u, v = self._advanced(parts)
        return u.dot(parts["bar"].reshape(parts["bar"].shape[0], -1).mv(v))


def _normalized(x: Tensor) -> Tensor:
    return x / (x.norm() + 1e-12)
