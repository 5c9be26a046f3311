"""`torch.nn.utils.spectral_norm`: ``conv.weight_orig``, ``weight_u`` and ``weight_v``.

Files from before PyTorch 1.0 have the last weight itself, ``conv.weight``, and no ``weight_v``; torch solves ``v`` on
loading (``SpectralNormLoadStateDictPreHook``). Source: torch/nn/utils/spectral_norm.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wnconvert.checkpoint.content.shapes import fitting_dims
from wnconvert.checkpoint.layout import Group, Layout, Listing, Load, Migrated, register
from wnconvert.checkpoint.layouts import _spectral_norm
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason


@register
class SpectralNormHook(Layout):
    """Keys ``X_orig``, ``X_u`` and ``X_v``."""

    name = "spectral_norm_hook"
    title = "torch.nn.utils.spectral_norm"
    api = "hook"
    repeatable = True
    spells = {"spectral_norm": ("orig", "u", "v")}

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the triples in which ``u`` and ``v`` are vectors that fit the weight."""
        for stem, keys in listing.parted.items():
            if keys.keys() == {"orig", "u", "v"}:
                yield spectral_group(stem, self.name, keys, listing)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return ``orig / (u @ W @ v)`` with the vectors as they are stored."""
        (dim,) = group.kept or (0,)
        return _spectral_norm.composed(parts["orig"], parts["u"], parts["v"], dim, torch.dot)

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the folded weight itself and its singular vectors."""
        return _spectral_norm.split(weight, kept, torch.dot)

    def restored(
        self, weight: Tensor, scheme: str, kept: tuple[int, ...], like: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """Return the parts of a spectral norm with the vectors of another."""
        return _spectral_norm.restored(weight, kept, like, torch.dot)

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return that the largest singular value is not 1."""
        return _spectral_norm.unheld(weight, kept, self.title)

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.weight_orig``."""
        return f"{stem}_{part}"


@register
class SpectralNormBefore1(Layout):
    """Keys ``X_orig``, ``X_u`` and ``X``, without ``X_v``."""

    name = "spectral_norm_before_1"
    title = "torch.nn.utils.spectral_norm (before 1.0)"
    repeatable = True

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the triples in which the plain weight has the shape of ``orig``."""
        for stem, found in listing.parted.items():
            if found.keys() != {"orig", "u"} or stem not in listing.shapes:
                continue
            keys = {"orig": found["orig"], "weight": stem, "u": found["u"]}
            if listing.shapes[stem] == listing.shapes[found["orig"]]:
                yield spectral_group(stem, self.name, keys, listing)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what the module computes after it has loaded such a state dict."""
        (dim,) = group.kept or (0,)
        return _spectral_norm.composed(parts["orig"], parts["u"], _solved(parts, dim), dim, torch.dot)

    def migrated(self, group: Group, parts: Mapping[str, Tensor]) -> Migrated:
        """Return the vectors that torch solves on loading, instead of the weight."""
        (dim,) = group.kept or (0,)
        note = "spectral norms from before PyTorch 1.0 were given the vectors that torch solves for them"
        return Migrated({"orig": "orig", "u": "u"}, {"v": _solved(parts, dim)}, note, reordered=False)


def _solved(parts: Mapping[str, Tensor], dim: int) -> Tensor:
    """Return ``v`` as torch solves it: ``W v`` along ``u``, with the sigma that ``orig`` and the weight show."""
    orig, u = parts["orig"], parts["u"]
    sigma = (orig / parts["weight"]).mean()
    w = _spectral_norm.matrix(orig, dim)
    v = torch.linalg.multi_dot([w.t().mm(w).pinverse(), w.t(), u.unsqueeze(1)]).squeeze(1)
    return v.mul_(sigma / torch.dot(u, torch.mv(w, v)))


def spectral_group(stem: str, layout: str, keys: Mapping[str, str], listing: Listing) -> Group:
    """Return the group of a spectral norm, with the dim that its parts show."""
    orig, u, v = (listing.shapes[keys[part]] if part in keys else None for part in ("orig", "u", "v"))
    fitting = fitting_dims(orig or (), u or (), v)
    if not fitting:
        return Group(stem, layout, None, keys, problem=listing.misfit(keys))

    def vectors(load: Load) -> tuple[Tensor, Tensor, Tensor | None]:
        return load(keys["orig"]), load(keys["u"]), load(keys["v"]) if "v" in keys else None

    dim, problem = _spectral_norm.kept_dim(fitting, listing, vectors)
    return Group(stem, layout, "spectral_norm", keys, None if dim is None else (dim,), problem=problem)
