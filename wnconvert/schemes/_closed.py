"""Gradients in closed form, of schemes whose formula is a statistic of the direction and one combination with it.

What autograd makes of a formula keeps a tensor of the weight's size for almost every operator, and walks through it
once more. The same derivative by hand is two or three walks. So these schemes say their derivative too; `compose` stays
the one place of the formula, and the tests hold the one against the other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from wnconvert.lazy import Tensor, torch, torch_private
from wnconvert.scheme import Parts, Scheme, WeightSpec
from wnconvert.verification import is_dense


@dataclass(frozen=True)
class ClosedScheme(Scheme):
    """A scheme that is `statistics` of its parts and then their `combine`, with `gradients` in closed form."""

    #: from how many elements on closed gradients are faster, although Python calls them and not autograd by itself
    worthwhile: ClassVar[int] = 2**16

    @abstractmethod
    def statistics(self, parts: Parts, spec: WeightSpec) -> tuple[Tensor, ...]:
        """Return what is computed of the direction before it is multiplied: small tensors."""

    @abstractmethod
    def combine(self, parts: Parts, statistics: Sequence[Tensor], spec: WeightSpec) -> Tensor:
        """Return the weight; see `compose`."""

    @abstractmethod
    def gradients(
        self, parts: Parts, statistics: Sequence[Tensor], gradient: Tensor, wanted: Collection[str], spec: WeightSpec
    ) -> dict[str, Tensor | None]:
        """Return the gradients of the trained parts, at least those that are ``wanted``.

        Args:
            parts: tensors by part name.
            statistics: what `statistics` returned for them.
            gradient: that of the weight.
            wanted: names of parts.
            spec: the weight's static facts.
        """

    def compose(self, parts: Parts, spec: WeightSpec) -> Tensor:
        """Return the weight that ``parts`` stand for: shape of ``spec``, dtype and strides of the direction."""
        return self.combine(parts, self.statistics(parts, spec), spec)

    def has_gradients(self, parts: Parts, spec: WeightSpec) -> bool:
        """Whether `gradients` knows such a weight: one row after the other in memory, or each in equal pieces."""
        if len(spec.kept) > 1 or spec.fan_in < 2:
            return False
        direction = parts[self.direction]
        return direction.is_contiguous() or (spec.kept == (0,) and has_rows(direction))


def has_rows(x: Tensor) -> bool:
    """Return whether the rows of the first dim lie one after the other in memory, as those of channels_last weights."""
    return x.stride(0) * x.shape[0] == x.numel() and is_dense(x)


def across(gradient: Tensor, v: Tensor, g: Tensor, length: Tensor, spec: WeightSpec) -> Tensor:
    """Return ``g / length * (gradient - v * (gradient . v) / length**2)``.

    That is the gradient of ``v`` in ``v * (g / length)`` where ``length`` is its norm: what is across ``v``.
    """
    if v.is_contiguous() and spec.kept in ((0,), (len(spec.shape) - 1,)):
        kernel: Tensor = torch_private.weight_norm_backward(gradient.contiguous(), v, g, length, spec.kept[0])[0]
        return kernel
    if spec.blocks[0] == 1:
        given, rows = (x.squeeze(0) for x in _blocks(gradient, v, spec))
        found = torch_private.weight_norm_backward(given, rows, g.view(-1, 1), length.view(-1, 1), 0)[0]
        return found.as_strided(v.shape, v.stride())
    ratio = g / length
    products = gradient * v
    along = torch.sum(products, spec.dims, keepdim=True) / length / length
    return torch.mul(v, -ratio * along, out=products).addcmul_(gradient, ratio)


def across_centered(
    gradient: Tensor, v: Tensor, center: Tensor, g: Tensor, inverse: Tensor, spec: WeightSpec, wanted: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of ``v``, of ``g`` and of a shift in ``(v - center) * inverse * g + shift``.

    There ``center`` is the mean of ``v``, and ``inverse**2`` the number of elements of a row divided by that of
    ``v - center``, as in the batch norm whose derivative this is.

    Args:
        gradient: that of the weight.
        v: the direction.
        center: in the kept shape, as are ``g`` and ``inverse``.
        g: multiplies what is standardized.
        inverse: standardizes it.
        spec: the weight's static facts.
        wanted: whether the gradient of ``v`` is; else it is None.
    """
    given, rows = _blocks(gradient, v, spec)
    # the kernel reads them one after the other in memory, whatever their strides are
    scale, means, inverses = (each.reshape(-1).contiguous() for each in (g, center, inverse))
    found, of_g, of_shift = torch_private.batch_norm_backward(
        given, rows, scale, None, None, means, inverses, True, 0.0, [wanted, True, True]
    )
    shape = spec.kept_shape
    return (found.as_strided(v.shape, v.stride()) if wanted else None), of_g.view(shape), of_shift.view(shape)


def _blocks(gradient: Tensor, v: Tensor, spec: WeightSpec) -> tuple[Tensor, Tensor]:
    """Return both as contiguous views of the shape `WeightSpec.blocks`, in the order of the memory of ``v``."""
    if v.is_contiguous():
        return gradient.contiguous().view(spec.blocks), v.view(spec.blocks)
    if gradient.stride() != v.stride():
        gradient = torch.empty_like(v).copy_(gradient)
    strides = (v.numel(), spec.fan_in, 1)
    return gradient.as_strided(spec.blocks, strides), v.as_strided(spec.blocks, strides)
