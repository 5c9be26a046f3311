"""What both of torch's weight norms have in common: the kept dim that a magnitude shows, and the call."""

from __future__ import annotations

from collections.abc import Mapping

from wnconvert.checkpoint.content import shapes
from wnconvert.checkpoint.layout import Listing
from wnconvert.errors import OptionError
from wnconvert.lazy import Tensor, torch_private
from wnconvert.reasons import Reason, Why
from wnconvert.scheme import WeightSpec, magnitude_shape
from wnconvert.schemes.weight_norm import WeightNorm


def kept_dims(listing: Listing, keys: Mapping[str, str]) -> tuple[tuple[int, ...] | None, Reason | None]:
    """Return the kept dims that the shape of ``g`` shows, or None and why ``g`` is no magnitude of ``v``.

    The norm reduces every axis where ``g`` has size 1. Where that is so everywhere, the first dim in which ``v`` has
    size 1 is taken to be kept, as in torch's default; the others would give the same norm.
    """
    g, v = listing.shapes[keys["g"]], listing.shapes[keys["v"]]
    kept = shapes.kept_dims(g, v)
    if kept is not None:
        return kept, None
    vague = "; a vector does not show the kept dim" if len(g) == 1 and g[0] in v else ""
    return None, listing.misfit({part: keys[part] for part in "gv"}, vague)


def composed(g: Tensor, v: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Return what `torch.nn.utils.weight_norm` and `torch.nn.utils.parametrizations.weight_norm` compute.

    Both call the same kernel. It takes one kept dim or none; any other magnitude is no module's of torch, and
    gets the formula.
    """
    if len(kept) <= 1 and magnitude_shape(v.shape, kept) == tuple(g.shape):
        return torch_private.weight_norm(v, g, kept[0] if kept else -1)
    return WeightNorm().compose({"g": g, "v": v}, WeightSpec.of(v, kept)).reshape(v.shape)


def split(weight: Tensor, kept: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the parts of a weight, with the dims that torch's modules can keep: one, or none.

    Raises:
        OptionError: there are several.
    """
    if len(kept) > 1:
        raise OptionError(f"torch has no weight norm with kept dims {kept}")
    return WeightNorm().split(weight, WeightSpec.of(weight, kept))


def contrary(listing: Listing, kept: tuple[int, ...]) -> Reason | None:
    """Return that the kept dims are others than the user gave, or None."""
    if listing.dim == "default" or kept == (() if listing.dim in (None, -1) else (listing.dim,)):
        return None
    return Why.DIM(shown=f"the shape of its magnitude shows kept dims {kept}")
