"""How values flow between calls: through what a channel passes unchanged, and in which dim it comes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from wnconvert.graph.calls import argument, is_permutation, permutation_of
from wnconvert.graph.entries import locate
from wnconvert.torch_private import ATEN_ASSERT_METADATA, ATEN_TO_COPY, ATEN_UNSAFE_VIEW, CALL_HOOKS, is_dropout

aten = torch.ops.aten


def shape_of(node: Node) -> tuple[Any, ...] | None:
    """Return the shape of a node's value where export or shape propagation has noted it."""
    noted = node.meta.get("val", node.meta.get("tensor_meta"))
    shape = getattr(noted, "shape", None)
    return None if shape is None else tuple(shape)


def readers(node: Node) -> list[Node]:
    """Return who reads a value; what export asserts of its dtype and device reads nothing of it."""
    return [user for user in node.users if user.target is not ATEN_ASSERT_METADATA]


class Flow:
    """Follows values through calls that neither mix channels nor compute anything.

    Args:
        graph_module: the graph.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        self._root = graph_module

    def passed(self, node: Node, dim: int | None) -> tuple[Node, int | None] | None:
        """Return what a call passes on, and the dim there of what comes out in ``dim``; None if it computes.

        Args:
            node: the call.
            dim: a dim of its value, counted from the last; None for all of them.
        """
        value = node.args[0] if node.args else None
        if not isinstance(value, Node):
            return None
        if self._is_plain(node):
            return value, dim
        if dim is None:
            return None
        if is_permutation(node):
            return self._permuted(node, value, dim)
        if node.target in _VIEWS and dim == -1 and self._keeps_last(node, value):
            return value, dim
        return None

    def users(self, node: Node, dim: int | None) -> Iterator[tuple[Node, Node, int | None, bool]]:
        """Yield who reads a value in the end.

        Yields:
            the reader; the node that it reads, which has the value; the dim there; and whether a cast lies between.
        """
        pending = [(node, dim, False)]
        while pending:
            value, own, cast = pending.pop()
            for user in readers(value):
                came_from = self.passed(user, self._outgoing(user, own)) if user.args[:1] == (value,) else None
                if came_from is None:
                    yield user, value, own, cast
                else:
                    pending.append((user, self._outgoing(user, own), cast or user.target in CASTS))

    def _outgoing(self, user: Node, dim: int | None) -> int | None:
        """Return the dim in which a permutation gives what it reads in ``dim``; other calls leave it."""
        shape = shape_of(user) if dim is not None and is_permutation(user) else None
        order = permutation_of(user, len(shape)) if shape else None
        return dim if order is None or dim is None or not shape else order.index(dim % len(shape)) - len(shape)

    @staticmethod
    def _permuted(node: Node, value: Node, dim: int) -> tuple[Node, int] | None:
        shape = shape_of(node)
        order = permutation_of(node, len(shape)) if shape else None
        return None if order is None or shape is None else (value, order[dim] - len(shape))

    def _is_plain(self, node: Node) -> bool:
        if node.op == "call_module":
            module = locate(self._root, str(node.target))
            plain = type(module) is nn.Identity or (is_dropout(module) and not module.training)
            return plain and not any(getattr(module, hooks) for hooks in CALL_HOOKS)  # which may change the value
        if node.target in (F.dropout, aten.dropout.default):
            return argument(node, 2, "training" if node.target is F.dropout else "train", True) is False
        return node.target in _PLAIN or (node.target in CASTS and _only_casts(node))

    @staticmethod
    def _keeps_last(node: Node, value: Node) -> bool:
        """Return whether a view leaves the last dim as it is: its elements lie side by side before and after."""
        before, after = shape_of(value), shape_of(node)
        if before and after:
            return bool(before[-1] == after[-1])
        return False


def dtype_of(node: Node) -> torch.dtype | None:
    """Return the dtype of a node's value, as noted or as a cast names it; None if neither does."""
    noted = node.meta.get("val", node.meta.get("tensor_meta"))
    named = (each for each in (*node.args, *node.kwargs.values()) if isinstance(each, torch.dtype))
    return getattr(noted, "dtype", None) or next(named, _METHODS_OF_DTYPES.get(node.target))


def _only_casts(node: Node) -> bool:
    """Return whether ``to`` is given nothing but a dtype, and none that makes other numbers of a value."""
    dtype = dtype_of(node)
    if dtype is not None and dtype not in _METHODS_OF_DTYPES.values():
        return False
    others = [*node.args[1:], *node.kwargs.values()]
    return all(isinstance(each, (torch.dtype, bool, torch.memory_format)) or each is None for each in others) or (
        node.target in ("type_as", aten.type_as.default)
    )


#: the dtypes that only round a value, and the methods that give them
_METHODS_OF_DTYPES: dict[Any, torch.dtype] = {
    "float": torch.float32,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "double": torch.float64,
}
#: methods and functions that return the value itself
_PLAIN = frozenset(
    (
        *("contiguous", "clone", "detach", torch.clone, torch.detach),
        *(aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default),
    )
)
#: ... and those that may change its dtype
CASTS = frozenset(
    (
        *("to", *_METHODS_OF_DTYPES, "type_as", aten.type_as.default),
        *(ATEN_TO_COPY, aten.to.dtype, aten.to.dtype_layout),
    )
)
_VIEWS = frozenset(
    (
        *("view", "reshape", "flatten", "unsqueeze", "squeeze"),
        *(torch.reshape, torch.flatten, torch.unsqueeze, torch.squeeze),
        *(aten.view.default, aten.reshape.default, ATEN_UNSAFE_VIEW),
    )
)
