"""Comparing two object trees, bit by bit."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.checkpoint.content.advance import advance
from wnconvert.checkpoint.content.deferred import DeferredTensor, real
from wnconvert.verification import same_bits

#: what has no parts and is compared in no time.
PLAIN = (str, bytes, int, bool, type(None))
#: so many steps of a place are told.
TOLD = 20


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits: -0.0 is not 0.0, and a NaN equals itself."""
    if a.dtype != b.dtype or a.shape != b.shape or a.layout != b.layout or a.is_meta != b.is_meta:
        return False
    if a.layout is not torch.strided or a.is_meta or a.is_quantized:
        return _saved(a) == _saved(b)
    if isinstance(b, DeferredTensor):
        a, b = b, a
    if isinstance(a, DeferredTensor):
        whole, start = real(b).detach(), 0
        for block in a.blocks():
            rows = whole if block.shape == whole.shape else whole[start : start + len(block)]
            if not same_bits(block, rows):
                return False
            start += 0 if rows is whole else len(block)
        return True
    return same_bits(_resolved(a.detach()), _resolved(b.detach()))


def _resolved(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor


@dataclass(frozen=True)
class Terms:
    """What counts when two trees are compared.

    Attributes:
        ordered: the order of the keys.
        kinds: whether a tensor is a parameter, and requires a gradient; and which kind of dict a dict is.
        bits: the values of tensors that are deferred in the first tree; their shape and dtype always count.
    """

    ordered: bool = True
    kinds: bool = True
    bits: bool = True


def difference(
    expected: Any, actual: Any, *, ordered: bool = True, kinds: bool = True, bits: bool = True
) -> str | None:
    """Return where two trees first differ, in words, or None if they are the same bit for bit.

    Args:
        expected: the one tree.
        actual: the other.
        ordered: whether the order of the keys counts.
        kinds: whether it counts that a tensor is a parameter and requires a gradient, and which kind of dict a dict is.
        bits: whether the values of tensors count that are deferred in ``expected``.
    """
    terms = Terms(ordered, kinds, bits)
    seen: set[tuple[int, int]] = set()
    made: list[Any] = []  # or the id of what is compared could be that of something else later
    rest = [iter([(expected, actual, Where())])]
    while rest:  # not by recursion: trees may be deeper than Python's stack
        for a, b, where in rest[-1]:
            if a is b or (type(a) in PLAIN and type(a) is type(b) and a == b) or (id(a), id(b)) in seen:
                continue
            seen.add((id(a), id(b)))
            if isinstance(a, nn.Module) and isinstance(b, nn.Module):  # a GraphModule's class is made anew on loading
                a, b, where = a.state_dict(), b.state_dict(), Where(where, "the state of {}")
                made += [a, b]
            if found := _own_difference(a, b, where, terms):
                return found
            rest.append(_pairs(a, b, where, terms))
            break
        else:
            rest.pop()
    return None


class Where:
    """Where something is in a tree, told only when somebody asks.

    Args:
        parent: where what holds it is; None for the root.
        form: what is said of it, with the parent in braces; by default, that it is an entry of the parent.
        key: its key in the parent.
    """

    __slots__ = ("form", "key", "parent")

    def __init__(self, parent: Where | None = None, form: str = "{}[{!r:.100}]", key: Any = None) -> None:
        self.parent, self.form, self.key = parent, form, key

    def __str__(self) -> str:
        steps: list[Where] = []
        place: Where = self
        while place.parent is not None:
            steps.append(place)
            place = place.parent
        text = "the content" if len(steps) <= TOLD else "..."
        for step in reversed(steps[:TOLD]):
            text = step.form.format(text, step.key)
        return text


def _own_difference(a: Any, b: Any, where: Where, terms: Terms) -> str | None:
    """Compare two nodes, but not what they contain."""
    kind, other = _kind(a, terms), _kind(b, terms)
    if kind is not other:
        return f"{where} is a {other.__name__}, not a {kind.__name__}"
    if isinstance(a, Tensor):
        return _tensor_difference(a, b, where, terms)
    if isinstance(a, dict):
        return (
            None
            if a.keys() == b.keys() and (not terms.ordered or list(a) == list(b))
            else f"the keys of {where} differ"
        )
    if isinstance(a, (list, tuple)):
        return None if len(a) == len(b) else f"the length of {where} differs"
    return None if hasattr(a, "__dict__") or _same_leaf(a, b) else f"{where} differs"


def _kind(value: Any, terms: Terms) -> type:
    if type(value) is Tensor:  # most are, and asking whether one is a parameter takes longer than all the rest
        return Tensor
    if isinstance(value, nn.Parameter):
        return nn.Parameter if terms.kinds else Tensor
    if isinstance(value, dict) and not terms.kinds:
        return dict
    return Tensor if isinstance(value, DeferredTensor) else type(value)


def _pairs(a: Any, b: Any, where: Where, terms: Terms) -> Iterator[tuple[Any, Any, Where]]:
    """Yield what two nodes contain, pair by pair."""
    if isinstance(a, dict):
        yield from ((a[key], b[key], Where(where, key=key)) for key in a)
    elif isinstance(a, (list, tuple)):
        yield from ((one, other, Where(where, key=index)) for index, (one, other) in enumerate(zip(a, b, strict=True)))
    if isinstance(a, dict) and not terms.kinds:
        return
    if hasattr(a, "__dict__") and not isinstance(a, Tensor) and not callable(a):
        yield vars(a), vars(b), Where(where, "the attributes of {}")


def _tensor_difference(a: Tensor, b: Tensor, where: Where, terms: Terms) -> str | None:
    unknown = isinstance(a, DeferredTensor) and not terms.bits
    if not unknown:
        advance(a.numel() * a.element_size())
    if (a.shape, a.dtype) != (b.shape, b.dtype) or not (unknown or bits_equal(a, b)):
        return f"the tensor {where} differs"
    if terms.kinds and a.requires_grad != b.requires_grad:
        return f"requires_grad of {where} differs"
    if a.layout is torch.strided and a.numel() and a.stride() != b.stride():
        return f"the memory format of {where} differs"
    return None


def _same_leaf(a: Any, b: Any) -> bool:
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    try:
        if bool(a == b):
            return True
    except Exception:  # noqa: BLE001 (an array, or whatever an unknown class does when compared)
        pass
    try:
        return pickle.dumps(a) == pickle.dumps(b)
    except Exception:  # noqa: BLE001 (whatever an unknown class does when pickled)
        return False


def _saved(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor.detach(), buffer)
    return buffer.getvalue()
