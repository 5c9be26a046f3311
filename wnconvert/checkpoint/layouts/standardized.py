"""Weight standardization: presets that the user names, because it leaves no trace in the keys, or too little.

Each has the epsilon, the variance and the calls of its project:

============== ======================== ===================================== =====================================
name           class                    weight                                source
============== ======================== ===================================== =====================================
timm           StdConv2d                biased variance + 1e-6, batch_norm    timm/layers/std_conv.py
timm-bit       the same, in BiT         biased variance + 1e-8                timm/models/resnetv2.py
bit            StdConv2d                biased variance + 1e-10               google-research/big_transfer
bit-npz        the same, in (H, W, I, O) biased variance + 1e-10               the published .npz files
nfnet          ScaledStdConv2d          biased variance + 1e-5, gain / sqrt n timm/layers/std_conv.py, nfnet.py
mmcv-conv-ws   ConvWS2d                 unbiased deviation + 1e-5             mmcv/cnn/bricks/conv_ws.py
mmcv-conv-aws  ConvAWS2d                unbiased variance + 1e-5, gamma, beta mmcv/cnn/bricks/conv_ws.py
============== ======================== ===================================== =====================================

A preset takes the convolutions that its project standardizes, by name where the project is one model family, else those
that the user names. ``mmcv-conv-aws`` is found by its buffers, and needs no naming. What has a ``gain`` as `nfnet` has
is reported, and refused until the user names the preset: ``gamma`` may be in the activation or in the weight.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from wnconvert.checkpoint.layout import Group, Layout, Listing, register
from wnconvert.errors import OptionError
from wnconvert.lazy import Tensor, torch
from wnconvert.reasons import Reason, Why

#: the standardized convolutions of ResNetV2 in timm and of the hybrid vision transformers; not the head, nor the patch
#: embedding, which are convolutions too.
_RESNET_V2 = r"(.*\.)?(stem\.conv\d?|stages\.\d+\.blocks\.\d+\.(conv\d|downsample\.conv))\.weight"
#: the same in the authors' own code.
_BIT = r"(.*\.)?(root\.conv|body\.block\d+\.unit\d+\.(conv\d|downsample))\.weight"


@dataclass(frozen=True)
class Standardized(Layout):
    """A preset: 4-D weights whose names match, standardized over all dims but the first.

    Attributes:
        eps: what the project adds to the variance, or to its root.
        only: regular expression for the names of the weights; empty for those of the project.
    """

    eps: float = 0.0
    only: str = ""

    automatic = False
    spells = {"weight_standardization": ("weight",)}
    direction = {"weight_standardization": "weight", "scaled_weight_standardization": "weight"}
    unknown_to_torch = "weight standardization"
    #: names of the weights that the project standardizes; empty where nobody can know.
    pattern: ClassVar[str] = ""
    #: last component of their names.
    leaf: ClassVar[str] = "weight"
    #: their output channels.
    kept: ClassVar[tuple[int, ...]] = (0,)

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the weights of the project."""
        wanted = self.only or self.pattern
        for stem, shape in listing.shapes.items():
            leaf = re.split(r"[./]", stem)[-1]
            if len(shape) == 4 and leaf == self.leaf and re.fullmatch(wanted or ".*", stem):
                problem = _too_small(shape, self.kept)
                if not wanted:
                    problem = Why.LAYOUT(problem="which weights are standardized is not in the file; name them")
                yield Group(stem, self.name, "weight_standardization", {"weight": stem}, self.kept, problem=problem)

    @abstractmethod
    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the standardized weight by the calls of the project's class."""

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the folded weight, each channel at the size that it had before, or at its own if that is nearer.

        A folded weight is its own direction. Standardized again it would be smaller, though, because of the epsilon, of
        which its variance shows the share; so its former size can be computed.
        """
        _require_convolution(weight, self.kept)
        group = Group("", self.name, scheme, {"weight": ""}, self.kept)
        resized = (weight.double() * self._former_size(weight)).to(weight.dtype)
        dims = _reduced(weight, self.kept)
        changes = [self.compose(group, {"weight": each}) - weight for each in (weight, resized)]
        own, other = (each.abs().amax(dims, keepdim=True) for each in changes)
        return {"weight": torch.where(other < own, resized, weight)}

    def _former_size(self, weight: Tensor) -> Tensor:
        """Return by what each channel was divided."""
        short = 1 - weight.double().var(_reduced(weight, self.kept), correction=0, keepdim=True)
        return torch.where(short > 0, self.eps / short, 1).sqrt()

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return the means and deviations of the channels."""
        dims = _reduced(weight, self.kept)
        mean = float(weight.double().mean(dims).abs().max())
        low, high = torch.aminmax(weight.double().std(dims, correction=0))
        what = f"means up to {mean:.3g} and deviations from {float(low):.3g} to {float(high):.3g}"
        return _not_standardized(self, what)

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return the name itself."""
        return stem


@register
@dataclass(frozen=True)
class Timm(Standardized):
    """timm's ``StdConv2d``."""

    eps: float = 1e-6
    name = "timm"
    title = "timm's StdConv2d"
    pattern = _RESNET_V2

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight as a batch normalization of one sample makes it."""
        return _batch_normed(parts["weight"], None, self.eps)


@register
@dataclass(frozen=True)
class TimmBit(Timm):
    """timm's ``StdConv2d`` as BiT and the hybrid vision transformers have it."""

    eps: float = 1e-8
    name = "timm-bit"
    title = "timm's StdConv2d in BiT"


@register
@dataclass(frozen=True)
class Bit(Standardized):
    """``StdConv2d`` of the BiT authors, https://github.com/google-research/big_transfer, bit_pytorch/models.py."""

    eps: float = 1e-10
    name = "bit"
    title = "big_transfer's StdConv2d"
    pattern = _BIT

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return ``(w - mean) / sqrt(var + eps)``."""
        w = parts["weight"]
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return (w - m) / torch.sqrt(v + self.eps)


@register
@dataclass(frozen=True)
class BitNpz(Standardized):
    """The published BiT files, whose keys name the layer: ``.../standardized_conv2d/kernel``, in (H, W, I, O)."""

    eps: float = 1e-10
    name = "bit-npz"
    title = "a published BiT file"
    leaf = "kernel"
    pattern = r"(.*/)?standardized_conv2d/kernel"
    kept = (3,)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what `Bit` computes from the transposed kernel, transposed back."""
        w = parts["weight"].permute(3, 2, 0, 1).contiguous()
        return Bit(self.eps).compose(group, {"weight": w}).permute(2, 3, 1, 0).contiguous()

    def named(self, stem: str) -> bool:
        """Return whether a name is that of a kernel."""
        return re.split(r"[./]", stem)[-1] == self.leaf


@register
@dataclass(frozen=True)
class MmcvConvWs(Standardized):
    """mmcv's ``ConvWS2d``, and the code of the paper's authors."""

    eps: float = 1e-5
    name = "mmcv-conv-ws"
    title = "mmcv's ConvWS2d"

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return ``(w - mean) / (std + eps)``."""
        w = parts["weight"]
        flat = w.reshape(w.size(0), -1)
        mean = flat.mean(dim=1, keepdim=True).view(-1, 1, 1, 1)
        std = flat.std(dim=1, keepdim=True).view(-1, 1, 1, 1)
        return (w - mean) / (std + self.eps)

    def _former_size(self, weight: Tensor) -> Tensor:
        short = 1 - weight.double().std(_reduced(weight, self.kept), keepdim=True)
        return torch.where(short > 0, self.eps / short, 1)


@register
@dataclass(frozen=True)
class Nfnet(Standardized):
    """timm's ``ScaledStdConv2d``: keys ``weight`` and ``gain`` of one module.

    Attributes:
        gamma: the constant of the activation, where it is in the weight; 1 where it is in the activation, as in
            DeepMind's F-networks (timm's ``gamma_in_act``).
    """

    eps: float = 1e-5
    gamma: float = 1.0
    name = "nfnet"
    title = "timm's ScaledStdConv2d"
    spells = {"scaled_weight_standardization": ("weight", "gain")}
    seen_as = "gain"

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the pairs in which the gain has one number for each output channel."""
        for group in _scaled(listing):
            if not self.only or re.fullmatch(self.only, group.stem):
                problem = _too_small(listing.shapes[group.stem], (0,))
                yield Group(group.stem, self.name, "scaled_weight_standardization", group.keys, (0,), problem=problem)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight as a batch normalization of one sample, with the scaled gain for its weight, makes it."""
        return _batch_normed(parts["weight"], (parts["gain"] * self._scale(parts["weight"])).view(-1), self.eps)

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the folded weight as its own direction, and the gain that gives it its size."""
        _require_convolution(weight, (0,))
        var = weight.double().var(_reduced(weight, (0,)), correction=0, keepdim=True)
        return {"weight": weight, "gain": ((var + self.eps).sqrt() / self._scale(weight)).to(weight.dtype)}

    def unheld(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> Reason:
        """Return the means of the channels."""
        mean = float(weight.double().mean(_reduced(weight, (0,))).abs().max())
        return _not_standardized(self, f"means up to {mean:.3g}")

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.gain``; the weight keeps its name."""
        module, dot, _ = stem.rpartition(".")
        return stem if part == "weight" else f"{module}{dot}{part}"

    def _scale(self, weight: Tensor) -> float:
        return self.gamma * weight[0].numel() ** -0.5


@register
class ScaledByLook(Layout):
    """What has the keys of `Nfnet`, and is refused until the user names that preset."""

    name = "gain"
    title = "a weight with a gain"
    hint = True
    direction = {"weight_standardization": "weight", "scaled_weight_standardization": "weight"}
    unknown_to_torch = "weight standardization"

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the same pairs, each with a problem."""
        yield from _scaled(listing)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Never called, for each group has a problem."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class MmcvConvAws(Layout):
    """mmcv's ``ConvAWS2d``: keys ``weight``, ``weight_gamma`` and ``weight_beta``.

    On loading, the class computes gamma and beta anew from the weight where the mean of gamma is not positive.
    """

    eps: float = 1e-5
    name = "mmcv-conv-aws"
    title = "mmcv's ConvAWS2d"
    spells = {"weight_standardization": ("weight", "gamma", "beta")}
    direction = {"weight_standardization": "weight", "scaled_weight_standardization": "weight"}
    unknown_to_torch = "weight standardization"

    def find(self, listing: Listing) -> Iterator[Group]:
        """Yield the triples in which gamma and beta have one number for each output channel."""
        for stem, found in listing.by_suffix(("_gamma", "_beta")).items():
            if len(found) == 2 and stem in listing.shapes:
                shape = listing.shapes[stem]
                vectors = {listing.shapes[key] for key in found.values()}
                if len(shape) == 4 and vectors == {(shape[0], 1, 1, 1)}:
                    keys = {"weight": stem, **{suffix[1:]: key for suffix, key in found.items()}}
                    problem = _too_small(shape, (0,))
                    yield Group(stem, self.name, "weight_standardization", keys, (0,), problem=problem)

    def compose(self, group: Group, parts: Mapping[str, Tensor]) -> Tensor:
        """Return ``gamma * (w - mean) / sqrt(var + eps) + beta``."""
        w, gamma, beta = (parts[part] for part in ("weight", "gamma", "beta"))
        mean, std = self._moments(w)
        if not w.is_meta and not bool(gamma.mean() > 0):
            gamma, beta = std, mean
        return gamma * ((w - mean) / std) + beta

    def split(self, weight: Tensor, scheme: str, kept: tuple[int, ...]) -> dict[str, Tensor]:
        """Return the weight as its own direction, with its mean and deviation as the class computes them."""
        _require_convolution(weight, (0,))
        mean, std = self._moments(weight)
        return {"weight": weight, "gamma": std, "beta": mean}

    def spell(self, stem: str, scheme: str, part: str) -> str:
        """Return ``conv.weight_gamma``; the weight keeps its name."""
        return stem if part == "weight" else f"{stem}_{part}"

    def _moments(self, w: Tensor) -> tuple[Tensor, Tensor]:
        flat = w.reshape(w.size(0), -1)
        return flat.mean(dim=1).view(-1, 1, 1, 1), torch.sqrt(flat.var(dim=1) + self.eps).view(-1, 1, 1, 1)


def _scaled(listing: Listing) -> Iterator[Group]:
    problem = Why.LAYOUT(
        problem="it has a gain, as scaled weight standardization has; name the preset (nfnet) to fold it"
    )
    for gain, numbers in listing.shapes.items():
        module, _, name = gain.rpartition(".")
        stem = f"{module}.weight" if module else "weight"
        if name == "gain" and stem in listing.shapes:
            shape = listing.shapes[stem]
            if len(shape) == 4 and numbers == (shape[0], 1, 1, 1):
                yield Group(stem, "gain", None, {"weight": stem, "gain": gain}, problem=problem)


def _not_standardized(layout: Layout, what: str) -> Reason:
    return Why.LAYOUT(
        what=f"is not standardized: its channels have {what}",
        layout=layout.title,
        held="weights that were folded from it",
    )


def _too_small(shape: tuple[int, ...], kept: tuple[int, ...]) -> Reason | None:
    """Return that there is but one element to standardize, where that is so; the modules fail there, or give NaN."""
    elements = prod(size for dim, size in enumerate(shape) if dim not in kept)
    one = Why.LAYOUT(problem="has one element for each output channel, which cannot be standardized")
    return one if elements == 1 else None


def _require_convolution(weight: Tensor, kept: tuple[int, ...]) -> None:
    """Raise an `OptionError` where a weight is not that of a 2-d convolution, or cannot be standardized."""
    if weight.ndim != 4:
        raise OptionError(f"has {weight.ndim} dims, not the 4 of a 2-d convolution")
    if reason := _too_small(tuple(weight.shape), kept):
        raise OptionError(reason)


def _reduced(weight: Tensor, kept: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dim for dim in range(weight.ndim) if dim not in kept)


def _batch_normed(weight: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    flat = weight.reshape(1, weight.shape[0], -1)
    normed = torch.nn.functional.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=eps)
    return normed.reshape_as(weight)
