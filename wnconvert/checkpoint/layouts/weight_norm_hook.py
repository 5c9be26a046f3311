"""`torch.nn.utils.weight_norm`: ``conv.weight_g`` and ``conv.weight_v``; also what wnconvert writes.

``weight_v`` is a part of spectral norm too, so the partners decide, then the rank. Any parameter can be normalized:
``rnn.weight_hh_l0_g``, ``attn.in_proj_weight_g``. Source: torch/nn/utils/weight_norm.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wnconvert.checkpoint.layout import Group, Layout, Listing, register, unidentified
from wnconvert.checkpoint.layouts import _weight_norm
from wnconvert.lazy import Tensor


@register
class WeightNormHook(Layout):
    """Keys ``X_g`` and ``X_v``."""

    name = "weight_norm_hook"
    title = "torch.nn.utils.weight_norm"
    api = "hook"
    repeatable = True
    spells = {"weight_norm": ("g", "v")}

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the pairs in which one is a magnitude of the other; and what has parts that belong to no scheme."""
        for stem, keys in listing.parted.items():
            if not listing.named(stem):
                continue
            if keys.keys() == {"g", "v"}:
                yield _group(stem, keys, listing)
            elif problem := unidentified(keys):
                yield Group(stem, self.name, None, keys, problem=problem)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return ``torch._weight_norm(v, g, dim)``."""
        return _weight_norm.composed(parts["g"], parts["v"], group.kept or ())

    def channelwise(self, group: Group) -> bool:
        """Return whether it is a weight norm of the first dim: torch's kernel for that works row by row."""
        return group.scheme == "weight_norm" and group.kept == (0,)

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return magnitude and direction."""
        return _weight_norm.split(weight, kept)

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.weight_g``."""
        return f"{stem}_{part}"


def _group(stem: str, keys: Mapping[str, str], listing: Listing) -> Group:
    layout = WeightNormHook.name
    kept, misfit = _weight_norm.kept_dims(listing, keys)
    if kept is None:
        return Group(stem, layout, None, keys, problem=misfit)
    return Group(stem, layout, "weight_norm", keys, kept, problem=_weight_norm.contrary(listing, kept))
