"""A layout: modules that keep ``conv.magnitude`` and ``conv.direction``, and compute their weight from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from wnconvert.checkpoint import Group, Layout, Listing, Migrated


class Polar(Layout):
    """Keys ``X.magnitude``, one number for each output channel, and ``X.direction``."""

    name = "polar"
    title = "the polar modules"
    spells = {"weight_norm": ("magnitude", "direction")}
    direction = {"weight_norm": "direction"}

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the pairs in which the vector is as long as the direction has output channels."""
        for module, found in listing.by_suffix((".magnitude", ".direction")).items():
            keys = {suffix[1:]: key for suffix, key in found.items()}
            shapes = {part: listing.shapes[key] for part, key in keys.items()}
            if shapes.keys() == {"magnitude", "direction"} and shapes["magnitude"] == shapes["direction"][:1]:
                yield Group(f"{module}.weight", self.name, "weight_norm", keys, (0,))

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what the modules compute, by their calls."""
        v = parts["direction"]
        return v * _wide(parts["magnitude"] / _norm(v), v)

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the norms and the weight itself, from which `compose` gives it back."""
        return {"magnitude": _norm(weight), "direction": weight}

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.magnitude`` for ``conv.weight``."""
        return f"{stem.rpartition('.')[0]}.{part}"

    def migrated(self, group: Group, parts: Mapping[str, Tensor]) -> Migrated:
        """Return the parts of torch's weight norm: a magnitude of another shape, and the same direction."""
        g = _wide(parts["magnitude"], parts["direction"])
        return Migrated({"g": "magnitude", "v": "direction"}, {"g": g})


def _norm(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)


def _wide(channels: Tensor, v: Tensor) -> Tensor:
    return channels.view(-1, *(1,) * (v.ndim - 1))
