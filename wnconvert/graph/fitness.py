"""What makes a tensor unfit to be normalized, in graphs and in live modules alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wnconvert.graph.entries import Entry
from wnconvert.reasons import Reason, Why
from wnconvert.selection import DTYPES
from wnconvert.torch_private import accumulation_hooks_of, gradient_hooks_of
from wnconvert.verification import is_dense


def reason_against(tensor: Tensor, owners: Iterable[Entry] = ()) -> Reason | None:
    """Return why a tensor cannot be split into parts, or None if it can.

    Args:
        tensor: the tensor.
        owners: the places that hold it.
    """
    for owner in owners:
        if isinstance(owner.module, torch.jit.ScriptModule):
            return Why.COMPILED(module=owner.path)
    if type(tensor) is not nn.Parameter:
        return _reason_against_class(tensor)
    if tensor.dtype not in DTYPES:
        return Why.DTYPE(dtype=str(tensor.dtype).removeprefix("torch."))
    if tensor.numel() == 0:
        return Why.NO_DATA(shape=tuple(tensor.shape))
    if tensor.layout != torch.strided:
        return Why.DTYPE(layout=tensor.layout)
    if not tensor.is_contiguous() and not is_dense(tensor):
        return Why.STRIDES(strides=tensor.stride())
    if gradient_hooks_of(tensor) or accumulation_hooks_of(tensor):
        return Why.GRADIENT_HOOKS()
    return None


def _reason_against_class(tensor: Tensor) -> Reason:
    if not isinstance(tensor, nn.Parameter):
        return Why.BUFFER()
    if is_lazy(tensor):
        return Why.UNINITIALIZED()
    return Why.SUBCLASS(kind=type(tensor).__name__)


def reason_against_layer(module: nn.Module) -> Reason | None:
    """Return why the weight of a module cannot be split, whatever it is, or None if it can."""
    # nn.Module builds a message for what it has not, which costs more than all the rest
    values = module.__dict__
    if values.get("max_norm") is not None:
        return Why.MAX_NORM()
    if values.get("sparse") is True:
        return Why.SPARSE_GRADIENT()
    return None


def overlapping(tensors: Iterable[tuple[str, Tensor]]) -> dict[int, str]:
    """Return, by the id of a tensor, the name of another tensor that shares memory with it.

    Weights that only lie beside each other in one piece of memory, as cuDNN wants those of a recurrent module, do not.
    """
    first: dict[int, tuple[str, Tensor]] = {}
    pieces: dict[int, dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        # nothing else has memory to compare
        if type(tensor) in (nn.Parameter, Tensor) and not tensor.is_meta and tensor.layout == torch.strided:
            key = tensor.untyped_storage().data_ptr()
            known = first.setdefault(key, (name, tensor))
            if known[1] is not tensor:
                pieces.setdefault(key, {id(known[1]): known}).setdefault(id(tensor), (name, tensor))
    found: dict[int, str] = {}
    for piece in pieces.values():
        for (name, tensor), (other_name, other) in _overlaps(piece.values()):
            found.setdefault(id(tensor), other_name)
            found.setdefault(id(other), name)
    return found


def _overlaps(piece: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[tuple[str, Tensor], tuple[str, Tensor]]]:
    """Yield pairs of tensors of one piece of memory, one pair at least for each that overlaps with another."""
    spans = []
    for name, tensor in piece:
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
