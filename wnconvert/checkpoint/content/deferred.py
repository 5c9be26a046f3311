"""Tensors that are computed when they are needed, so that a conversion never holds all new tensors at once.

A deferred tensor has a shape, a dtype and a recipe. Any torch function that is given one computes it, works on the
result and forgets it. What the recipe reads are tensors of the input file, which are mapped and therefore cost no
memory either. Small ones that were made to be written are kept until they are compared with what was written, as many
as fit into a bounded memory; no one else is given these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from wnconvert.checkpoint.content import memory
from wnconvert.torch_private import no_torch_function, pytree, schema_of, tensor_without_memory, version_of

#: so many bytes of a tensor are made at a time where that can be: what is done with them finds them in a cache.
BLOCK = 1 << 21
#: a tensor that is this much smaller than the weight it belongs to is kept: all such together are small too.
KEPT_SHARE = 64
#: tensors of at most so many bytes are kept once they are made, all together at most so many bytes: the newest ones.
KEPT_SIZE, KEPT_TOGETHER = 1 << 16, 1 << 25
#: a tensor of at most so many bytes takes less memory than what would stand for it, and is never deferred.
TINY = 1 << 10


class Recipe:
    """How a tensor is computed, and from what. Two deferred tensors with one recipe are tied.

    Args:
        compute: returns the tensor; called each time it is needed.
        sources: the tensors that it reads. They must not be changed in place before the last use.
        rows: returns some indices of the first dim, with the bits that they have in the whole; None if only the whole
            can be computed.
    """

    def __init__(
        self,
        compute: Callable[[], Tensor],
        sources: Sequence[Tensor],
        rows: Callable[[slice], Tensor] | None = None,
    ) -> None:
        self._compute = compute
        self._rows = rows
        self._sources = [(source, _version(source)) for source in sources]
        #: what was made already, for those who only read it
        self.kept: Tensor | None = None

    @property
    def divisible(self) -> bool:
        """Whether some indices of the first dim can be computed without the others."""
        return self._rows is not None

    def compute(self, rows: slice | None = None) -> Tensor:
        """Return the tensor, computed anew, or some indices of its first dim."""
        self.require_unchanged()
        with torch.no_grad():
            made = self._compute() if rows is None or self._rows is None else self._rows(rows)
            return real(made) if not made.requires_grad else real(made.detach())

    def require_unchanged(self) -> None:
        """Check that the sources are what they were.

        Raises:
            RuntimeError: one was changed in place.
        """
        for source, version in self._sources:
            if _version(source) != version:
                raise RuntimeError("a tensor was changed in place after the conversion that reads it; save first")


class DeferredTensor(Tensor):
    """A tensor on the CPU that is computed anew each time it is used; see `defer`."""

    recipe: Recipe
    # results are ordinary tensors, not of this class
    __torch_function__ = no_torch_function  # type: ignore[assignment]

    @staticmethod
    def of(recipe: Recipe, like: Tensor) -> DeferredTensor:
        """Return a tensor with the shape, dtype and strides of ``like``."""
        made: DeferredTensor = tensor_without_memory(
            DeferredTensor, like.shape, strides=like.stride(), dtype=like.dtype, device=torch.device("cpu")
        )
        made.recipe = recipe
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func`` on what the deferred tensors among its arguments stand for."""
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return DeferredTensor.of(args[0].recipe, args[0])
        if schema_of(func).is_mutable and args and isinstance(args[0], cls):
            raise RuntimeError("a deferred tensor cannot be changed in place; change a clone of it")
        args, kwargs = pytree.tree_map_only(cls, DeferredTensor.compute, (args, kwargs or {}))
        return func(*args, **kwargs)

    def compute(self) -> Tensor:
        """Return the ordinary tensor, in exactly the memory format that this one shows."""
        memory.about_to_make(self.numel() * self.element_size())
        return _as_shown(self.recipe.compute(), self)

    def blocks(self) -> Iterator[Tensor]:
        """Yield the ordinary tensor in pieces of its first dim, in order, to be read only; whole where it has to be."""
        size = self.nbytes
        if size <= min(KEPT_SIZE, BLOCK):
            yield self._kept()
        elif size <= BLOCK or not (self.recipe.divisible and self.is_contiguous()):
            yield self.compute()
        else:
            for rows in slices(self):
                yield self.recipe.compute(rows)

    def _kept(self) -> Tensor:
        """Return the ordinary tensor, which may have been made before."""
        if self.recipe.kept is None:
            _keep(self.recipe, made := self.compute())
            return made
        self.recipe.require_unchanged()
        return self.recipe.kept

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeferredTensor(shape={tuple(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        memo[id(self)] = copied = real(self).clone() if not isinstance(self, nn.Parameter) else _parameter(self)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return real(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def defer(
    compute: Callable[[], Tensor],
    like: Tensor,
    sources: Sequence[Tensor],
    rows: Callable[[slice], Tensor] | None = None,
    made: Tensor | None = None,
) -> Tensor:
    """Return a tensor that is computed when needed; at once, where it is tiny.

    Args:
        compute: returns the tensor.
        like: a tensor of the same shape, dtype and strides; it is not kept.
        sources: the tensors that ``compute`` reads.
        rows: see `Recipe`.
        made: what ``compute`` returned already, and nobody else has; it is kept if it is small.
    """
    if like.nbytes <= TINY:
        with nullcontext() if not torch.is_grad_enabled() else torch.no_grad():
            return _as_shown(real(compute() if made is None else made).detach(), like)
    recipe = Recipe(compute, sources, rows)
    if made is not None and made.nbytes <= KEPT_SIZE:
        _keep(recipe, made)
    return DeferredTensor.of(recipe, like)


#: what is kept, the oldest first, with its bytes, and these together
_all_kept: deque[tuple[ref[Recipe], int]] = deque()
_size = 0


def _keep(recipe: Recipe, made: Tensor) -> None:
    """Keep what was made for a recipe, and forget the oldest such tensors if there is no room left."""
    global _size
    recipe.kept = made
    _all_kept.append((ref(recipe), made.nbytes))
    _size += made.nbytes
    while _size > KEPT_TOGETHER:
        oldest, size = _all_kept.popleft()
        _size -= size
        if (other := oldest()) is not None:
            other.kept = None


def slices(tensor: Tensor) -> list[slice]:
    """Return slices of the first dim that together are the tensor, each of about `BLOCK` bytes."""
    count = len(tensor)
    step = max(1, BLOCK * count // max(1, tensor.numel() * tensor.element_size()))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def shape_of(tensor: Tensor) -> Tensor:
    """Return a tensor with what ``torch.empty_like(tensor, device="meta")`` shows, whose code takes long to import."""
    if tensor.is_contiguous() and tensor.numel():
        return tensor
    reached = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != reached:  # not dense: a view, whose strides no result has
            return torch.empty_like(tensor, device="meta")
        reached *= size
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def real(tensor: Tensor) -> Tensor:
    """Return an ordinary tensor, or parameter, for one that may be deferred."""
    if not isinstance(tensor, DeferredTensor):
        return tensor
    return _parameter(tensor) if isinstance(tensor, nn.Parameter) else tensor.compute()


def _as_shown(value: Tensor, like: Tensor) -> Tensor:
    """Return what was computed, in exactly the memory format of what stood for it."""
    if value.shape != like.shape or value.dtype != like.dtype:
        raise RuntimeError(f"computed {value.dtype} {tuple(value.shape)}, not {like.dtype} {tuple(like.shape)}")
    if value.stride() != like.stride():
        value = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(value)
    return value


def small_beside(tensor: Tensor, weight: Tensor) -> bool:
    """Return whether a tensor takes so little memory, compared with the weight, that it may be kept."""
    return tensor.numel() * tensor.element_size() * KEPT_SHARE <= weight.numel() * weight.element_size()


def _parameter(tensor: DeferredTensor) -> Tensor:
    return nn.Parameter(tensor.compute(), requires_grad=tensor.requires_grad)


def _version(tensor: Tensor) -> int:
    return 0 if isinstance(tensor, DeferredTensor) or tensor.is_inference() else version_of(tensor)
