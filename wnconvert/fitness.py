"""What makes a tensor unfit to be split into parts, in graphs, in live modules and in files alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wnconvert.reasons import Reason, Why
from wnconvert.scheme import Scheme
from wnconvert.selection import DTYPES
from wnconvert.torch_private import accumulation_hooks_of, gradient_hooks_of
from wnconvert.verification import is_dense

#: a tensor with its name
_Named: TypeAlias = tuple[str, Tensor]


def reason_against(tensor: Tensor, holders: Iterable[tuple[str, nn.Module]] = ()) -> Reason | None:
    """Return why a tensor of a live model cannot be split, or None if it can.

    Args:
        tensor: the tensor.
        holders: the modules that hold it, with their names.
    """
    for path, module in holders:
        if isinstance(module, torch.jit.ScriptModule):
            return Why.COMPILED(module=path)
    if type(tensor) is not nn.Parameter:
        return _reason_against_class(tensor)
    if reason := reason_against_values(tensor):
        return reason
    return Why.GRADIENT_HOOKS() if gradient_hooks_of(tensor) or accumulation_hooks_of(tensor) else None


def _reason_against_class(tensor: Tensor) -> Reason:
    if not isinstance(tensor, nn.Parameter):
        return Why.BUFFER()
    if is_lazy(tensor):
        return Why.UNINITIALIZED()
    if is_distributed(tensor):
        return Why.SHARDED(kind=type(tensor).__name__)
    return Why.SUBCLASS(kind=type(tensor).__name__)


def reason_against_values(weight: Tensor) -> Reason | None:
    """Return why no scheme can split a weight, wherever it is from; one without data may have any values."""
    if weight.dtype not in DTYPES:
        return Why.DTYPE(dtype=str(weight.dtype).removeprefix("torch."))
    if weight.numel() == 0:
        return Why.NO_DATA(shape=tuple(weight.shape))
    if weight.layout != torch.strided:
        return Why.DTYPE(layout=weight.layout)
    if has_gaps(weight):
        return Why.STRIDES(strides=weight.stride())
    return None if weight.is_meta or is_finite(weight.detach()) else Why.NON_FINITE()


def has_gaps(tensor: Tensor) -> bool:
    """Return whether a tensor is a view that leaves gaps in its memory, or has elements in the same place."""
    return tensor.layout == torch.strided and not tensor.is_contiguous() and not is_dense(tensor)


def is_distributed(tensor: Tensor) -> bool:
    """Return whether several processes hold a tensor together; what is so was made by code that is imported."""
    distributed: Any = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor has memory that can be told: those on meta, sparse ones and wrappers of others do not."""
    return type(tensor) in (nn.Parameter, Tensor) and not tensor.is_meta and tensor.layout == torch.strided


def is_finite(weight: Tensor) -> bool:
    """Return whether every element of a floating tensor is finite."""
    # a sum is finite only if all its terms are, and takes no memory; that of large terms may overflow
    return isfinite(float(weight.sum())) or bool(weight.isfinite().all())


def reason_against_change(weight: Tensor, scheme: Scheme, change: float) -> Reason | None:
    """Return why a weight cannot be split that is so much changed when it is composed again, or None if it can."""
    if change == 0 or (isfinite(change) and not scheme.preserving):
        return None
    return Why.INEXACT(dtype=str(weight.dtype).removeprefix("torch."))


def reason_against_part(part: str, tensor: Tensor, is_read: bool = True) -> Reason | None:
    """Return why nothing can be computed with a part of a weight, or None.

    Args:
        part: name of the part.
        tensor: the part.
        is_read: whether it is here with its values; if not, they can be had later.
    """
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        return Why.DTYPE(part=part)
    return Why.NO_DATA(part=part) if tensor.numel() == 0 or (tensor.is_meta and is_read) else None


def reason_against_layer(module: nn.Module) -> Reason | None:
    """Return why the weight of a module cannot be split, whatever it is, or None if it can."""
    # nn.Module builds a message for what it has not, which costs more than all the rest
    return reason_against_lookup(module.__dict__.get("max_norm"), module.__dict__.get("sparse"))


def reason_against_lookup(max_norm: Any, sparse: Any) -> Reason | None:
    """Return why the weight of an embedding with these options cannot be split, or None if it can."""
    if max_norm is not None:
        return Why.MAX_NORM()
    return Why.SPARSE_GRADIENT() if sparse is True else None


class Overlaps:
    """Which of many tensors share memory with others: of such, one cannot be split without untying the others.

    Weights that only lie beside each other in one piece of memory, as cuDNN wants those of a recurrent module, do not.

    Args:
        tensors: the tensors, with their names.
        identity: what two tensors have in common that are one, tied; by default, they are one object.
    """

    def __init__(self, tensors: Iterable[_Named], identity: Callable[[Tensor], Hashable] = id) -> None:
        self._identity = identity
        first: dict[int, _Named] = {}
        pieces: dict[int, dict[Hashable, _Named]] = {}
        for name, tensor in tensors:
            if has_memory(tensor):
                key = tensor.untyped_storage().data_ptr()
                known = first.setdefault(key, (name, tensor))
                if known[1] is not tensor:
                    pieces.setdefault(key, {identity(known[1]): known}).setdefault(identity(tensor), (name, tensor))
        self._others: dict[Hashable, str] = {}
        for piece in pieces.values():
            for (name, tensor), (other_name, other) in overlapping(piece.values()):
                self._others.setdefault(identity(tensor), other_name)
                self._others.setdefault(identity(other), name)

    def reason_against(self, tensor: Tensor) -> Reason | None:
        """Return why one of the tensors cannot be split, or None if it can."""
        other = self._others.get(self._identity(tensor))
        return None if other is None else Why.SHARED_MEMORY(other=other)


def overlapping(tensors: Iterable[_Named]) -> Iterator[tuple[_Named, _Named]]:
    """Yield pairs of tensors that share memory, one pair at least for each tensor that does."""
    spans = []
    for name, tensor in tensors:
        if tensor.numel():
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            extent = 1 + sum((size - 1) * step for size, step in steps)
            start = tensor.data_ptr()
            spans.append((start, start + extent * tensor.element_size(), (name, tensor)))
    spans.sort(key=lambda span: span[:2])
    last = None
    for span in spans:
        if last is not None and span[0] < last[1]:
            yield last[2], span[2]
        if last is None or span[1] > last[1]:
            last = span
