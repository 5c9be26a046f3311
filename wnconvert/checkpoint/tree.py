"""The object tree of a checkpoint: the state dicts in it, and comparing two trees bit by bit."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from bisect import bisect_left
from collections.abc import Container, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.checkpoint.deferred import DeferredTensor, real
from wnconvert.errors import CheckpointError
from wnconvert.verification import same_bits

#: deeper trees are not read: nobody nests like that, and Python's recursion is bounded.
DEEPEST = 100


@dataclass(frozen=True)
class StateDict:
    """A dict in a checkpoint: a state dict, if there are tensors in it.

    Attributes:
        path: the keys that lead to it from the root of the checkpoint.
        entries: the dict itself, with whatever else it holds.
    """

    path: tuple[Hashable, ...]
    entries: dict[Any, Any]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors among the entries that a name leads to."""
        return {key: value for key, value in self.entries.items() if isinstance(key, str) and isinstance(value, Tensor)}

    def under(self, prefix: str) -> Iterator[str]:
        """Yield the names of the tensors that begin with ``prefix``, without looking at the others."""
        for name in itertools.islice(self._sorted, bisect_left(self._sorted, prefix), None):
            if not name.startswith(prefix):
                return
            yield name

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.tensors)

    def fqn(self, name: str) -> str:
        """Return ``name`` with the path in front of it."""
        return ".".join([*map(str, self.path), name])

    def __str__(self) -> str:
        return ".".join(map(str, self.path)) or "the root"


def walk(content: Any) -> Iterator[StateDict]:
    """Yield every dict in ``content`` that nested dicts, lists and tuples lead to, each once and in order.

    Raises:
        CheckpointError: the tree is nested absurdly deep, or a dict in it hides its methods.
    """
    seen: set[int] = set()

    def visit(node: Any, path: tuple[Hashable, ...]) -> Iterator[StateDict]:
        if not _is_inner(node) or id(node) in seen:
            return
        if len(path) > DEEPEST:
            raise CheckpointError(f"the content is nested more than {DEEPEST} dicts deep")
        seen.add(id(node))
        if isinstance(node, dict) and not vars(dict).keys().isdisjoint(getattr(node, "__dict__", ())):
            raise CheckpointError(f"{StateDict(path, node)} has attributes with the names of a dict's methods")
        if isinstance(node, dict):
            yield StateDict(path, node)
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if _is_inner(value):
                yield from visit(value, (*path, key))

    return visit(content, ())


def find_state_dicts(content: Any) -> list[StateDict]:
    """Return every dict with tensors in it, see `walk`, save for what belongs to the state of an optimizer."""
    every = list(walk(content))
    optimizers = {found.path for found in every if is_optimizer(found.entries) and found.path}
    return [
        found
        for found in every
        if found.tensors and not any(found.path[:length] in optimizers for length in range(1, len(found.path) + 1))
    ]


def is_optimizer(entries: Mapping[Any, Any]) -> bool:
    """Return whether a dict is the state dict of one of torch's optimizers."""
    state, groups = entries.get("state"), entries.get("param_groups")
    return (
        isinstance(state, dict)
        and isinstance(groups, list)
        and all(isinstance(group, dict) and "params" in group for group in groups)
    )


def rebuild(content: Any, replacements: Mapping[int, Mapping[Any, Any]], dropped: Container[int] = frozenset()) -> Any:
    """Return ``content`` with the entries of some dicts replaced; its dicts are copied, all else is shared with it.

    Args:
        content: the tree.
        replacements: the new entries of a dict, in order, by the ``id`` of the dict.
        dropped: the ``id`` of each dict that is left out.
    """
    copies: dict[int, Any] = {}

    def visit(node: Any) -> Any:
        if not _is_inner(node):
            return node
        if id(node) in copies:
            return copies[id(node)]
        if isinstance(node, dict):
            copies[id(node)] = fresh = copy.copy(node)  # keeps the type, and `_metadata` of a state dict
            fresh.clear()
            entries = replacements.get(id(node), node)
            fresh.update((key, visit(value)) for key, value in entries.items() if id(value) not in dropped)
            return fresh
        several: list[Any] = []
        copies[id(node)] = several
        several.extend(visit(value) for value in node if id(value) not in dropped)
        if len(several) == len(node) and all(a is b for a, b in zip(several, node, strict=True)):
            copies[id(node)] = node
        elif isinstance(node, tuple):
            copies[id(node)] = tuple(several)
        return copies[id(node)]

    return visit(content)


def _is_inner(node: Any) -> bool:
    return isinstance(node, dict) or type(node) in (list, tuple)


def storage_key(tensor: Tensor) -> Hashable:
    """Return what two tensors have in common exactly if they are tied: the same elements of the same storage."""
    if isinstance(tensor, DeferredTensor):
        return tensor.recipe
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.dtype, tuple(tensor.shape), tensor.stride())


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
    return same_bits(a.detach().resolve_conj().resolve_neg(), b.detach().resolve_conj().resolve_neg())


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

    def within(a: Any, b: Any, where: str) -> str | None:
        if a is b or (id(a), id(b)) in seen:
            return None
        seen.add((id(a), id(b)))
        if isinstance(a, nn.Module) and isinstance(b, nn.Module):  # the class of a GraphModule is made anew on loading
            a, b, where = a.state_dict(), b.state_dict(), f"the state of {where}"
        if found := _own_difference(a, b, where, terms):
            return found
        return next(
            (found for one, other, there in _pairs(a, b, where, terms) if (found := within(one, other, there))), None
        )

    return within(expected, actual, "the content")


def _own_difference(a: Any, b: Any, where: str, terms: Terms) -> str | None:
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
    if isinstance(value, nn.Parameter):
        return nn.Parameter if terms.kinds else Tensor
    if isinstance(value, dict) and not terms.kinds:
        return dict
    return Tensor if isinstance(value, DeferredTensor) else type(value)


def _pairs(a: Any, b: Any, where: str, terms: Terms) -> Iterator[tuple[Any, Any, str]]:
    """Yield what two nodes contain, pair by pair."""
    if isinstance(a, dict):
        yield from ((a[key], b[key], f"{where}[{key!r}]") for key in a)
    elif isinstance(a, (list, tuple)):
        yield from ((one, other, f"{where}[{index}]") for index, (one, other) in enumerate(zip(a, b, strict=True)))
    if isinstance(a, dict) and not terms.kinds:
        return
    if hasattr(a, "__dict__") and not isinstance(a, Tensor) and not callable(a):
        yield vars(a), vars(b), f"the attributes of {where}"


def _tensor_difference(a: Tensor, b: Tensor, where: str, terms: Terms) -> str | None:
    unknown = isinstance(a, DeferredTensor) and not terms.bits
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
