"""What a fused normalization is: an affine map of an activation, moved into the weight of a layer beside it.

A scheme is exact; a fusion is *measured*. It computes in float64 and rounds once, to the dtype of the weight, so that
the fused layer is as near to the exact result as the two ops that it replaces, but it has not their bits. The two kinds
of conversion have words of their own and are never mixed: `Scheme` splits and composes, `Fusion` fuses.

The mathematics is written once, here and in one file a fusion: tensors in, tensors out. Nothing there knows of graphs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from wnconvert.lazy import Tensor, torch
from wnconvert.registry import Registry


@dataclass(frozen=True)
class Affine:
    """``y = x * scale + shift``, channel by channel.

    Attributes:
        scale: float64, of shape ``(channels,)``, or ``()`` where all channels have the same; None is one.
        shift: the same for what is added; None is zero.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None

    @property
    def channels(self) -> int | None:
        """How many channels it has; None where it takes any number."""
        sizes = [each.numel() for each in (self.scale, self.shift) if each is not None and each.dim()]
        return sizes[0] if sizes else None


class Fusion(ABC):
    """A normalization of activations that, in evaluation, ends in an affine map with constants of its own.

    One subclass a file; its instances have no state.
    """

    #: snake_case name, equal to the name of the file.
    name: ClassVar[str]
    #: the affine map, as code.
    formula: ClassVar[str]
    #: the paper.
    reference: ClassVar[str]

    @abstractmethod
    def affine(self, tensors: Mapping[str, Tensor], eps: float) -> Affine:
        """Return the affine map that the tensors of the normalization stand for, in float64.

        Args:
            tensors: by the names that torch gives them (``weight``, ``bias``, ``running_mean``, ``running_var``);
                what the normalization does not have is left out.
            eps: what keeps its denominator from zero, where it has constants for one.
        """


@dataclass(frozen=True)
class LayerSpec:
    """The static facts of a layer that takes in an affine map.

    Attributes:
        transposed: whether the weight has its input channels first: transposed convolutions, and ``x @ weight``.
        groups: in how many groups the channels are.
    """

    transposed: bool = False
    groups: int = 1

    def channels_in(self, weight: Tensor) -> int:
        """Return how many channels the layer reads."""
        return weight.shape[0] if self.transposed else weight.shape[1] * self.groups

    def channels_out(self, weight: Tensor) -> int:
        """Return how many channels the layer gives."""
        return weight.shape[1] * self.groups if self.transposed else weight.shape[0]

    def by_channel(self, weight: Tensor) -> Tensor:
        """Return a view of ``weight`` of shape (groups, out / groups, in / groups, positions).

        A weight has the input channels of all groups in one dim and the output channels of one in the other, or the
        other way round where it is transposed.
        """
        own, other, *kernel = weight.shape
        view = weight.reshape(self.groups, own // self.groups, other, *kernel)
        view = view.transpose(1, 2) if self.transposed else view
        return view.flatten(3) if kernel else view.unsqueeze(-1)


def fuse_after(weight: Tensor, bias: Tensor | None, affine: Affine, spec: LayerSpec) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of the layer that does what the layer and then the affine map do.

    ``weight[o] * scale[o]`` and ``bias[o] * scale[o] + shift[o]``, for each output channel.

    Args:
        weight: float64; it is not changed.
        bias: float64, of shape ``(out,)``, or None.
        affine: of the output channels.
        spec: the layer.
    """
    if affine.scale is not None:
        out = spec.channels_out(weight)
        weight = _scaled(weight, spec, affine.scale.expand(out).reshape(spec.groups, -1, 1, 1))
        bias = None if bias is None else bias * affine.scale
    if affine.shift is not None:
        shift = affine.shift.expand(spec.channels_out(weight))
        bias = shift.clone() if bias is None else bias + shift
    return weight, bias


def fuse_before(weight: Tensor, bias: Tensor | None, affine: Affine, spec: LayerSpec) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of the layer that does what the affine map and then the layer do.

    ``weight[o, i] * scale[i]`` and ``bias[o] + sum_i weight[o, i] * shift[i]``. With a shift that holds only where each
    output reads every position of the kernel: not with zeros around the input, nor in a transposed convolution.

    Args:
        weight: float64; it is not changed.
        bias: float64, of shape ``(out,)``, or None.
        affine: of the input channels.
        spec: the layer.
    """
    channels = spec.channels_in(weight)
    if affine.shift is not None:
        shift = affine.shift.expand(channels).reshape(spec.groups, 1, -1, 1)
        moved = (spec.by_channel(weight) * shift).sum((2, 3)).reshape(-1)
        bias = moved if bias is None else bias + moved
    if affine.scale is not None:
        weight = _scaled(weight, spec, affine.scale.expand(channels).reshape(spec.groups, 1, -1, 1))
    return weight, bias


def _scaled(weight: Tensor, spec: LayerSpec, scale: Tensor) -> Tensor:
    scaled = weight.clone(memory_format=torch.contiguous_format)  # so that the view below is one
    spec.by_channel(scaled).mul_(scale)
    return scaled


def holds(dtype: torch.dtype, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether a dtype holds a float64 weight and bias: finite, and the weight to the dtype's precision.

    What is below the least normal number of a dtype loses digits there: weights times 1e-6 are hardly more than zeros
    in float16. A bias that small is rounded as its sum with anything else is, so it has to be finite only.
    """
    made = weight.to(dtype).double()
    size = torch.linalg.vector_norm(weight)
    lost = torch.linalg.vector_norm(made - weight) > torch.finfo(dtype).eps * size
    finite = made.isfinite().all() and (bias is None or bias.to(dtype).isfinite().all())
    return bool(finite and not lost)


def rounded(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a float64 tensor rounded once, with the dtype and, where they have one shape, the strides of ``like``."""
    made = tensor.to(like.dtype)
    if made.shape != like.shape or made.stride() == like.stride():
        return made
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device).copy_(made)


FUSIONS: Registry[type[Fusion]] = Registry("fusion", "wnconvert.fusions", "wnconvert.fusions", Fusion)


def register(cls: type[Fusion]) -> type[Fusion]:
    """File a fusion under its `Fusion.name`; a class decorator."""
    return FUSIONS.register(cls.name)(cls)
