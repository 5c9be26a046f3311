"""What the calls of a graph are by themselves: their arguments, and what they permute, view or change in place."""

from __future__ import annotations

import operator
from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

from wnconvert.torch_private import ATEN_UNSAFE_VIEW, OpOverload, schema_of

aten = torch.ops.aten


def argument(node: Node, index: int, keyword: str, default: Any = None) -> Any:
    """Return one argument of a call, given by position or by keyword."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(keyword, default)


def named_argument(node: Node, name: str) -> Any:
    """Return what a call of a function gives for a parameter, by name or at its place; None if it gives nothing."""
    if name in node.kwargs:
        return node.kwargs[name]
    names = _parameters_of(node.target) if node.op == "call_function" else ()
    given = dict(zip(names, node.args, strict=False))
    return given.get(name)


@cache
def _parameters_of(function: Any) -> tuple[str, ...]:
    """Return the names of a function's parameters in order, or none if it does not tell."""
    if isinstance(function, OpOverload):
        return tuple(parameter.name for parameter in schema_of(function).arguments)
    try:
        return tuple(signature(function).parameters)
    except (TypeError, ValueError):
        # torch's built-in functions do not tell; the overload of the same name with the most parameters has theirs
        packet = getattr(aten, getattr(function, "__name__", ""), None)
        overloads = () if packet is None else (getattr(packet, name) for name in packet.overloads())
        return max(map(_parameters_of, overloads), key=len, default=())


def is_permutation(node: Node) -> bool:
    """Return whether a call only permutes the dims of its first argument."""
    return _permutation_name(node) is not None and isinstance(node.args[0], Node)


def permutation_of(node: Node, ndim: int) -> tuple[int, ...] | None:
    """Return ``order`` with ``output.shape[i] == input.shape[order[i]]``, or None if it is not static.

    Args:
        node: a call for which `is_permutation` holds.
        ndim: rank of its first argument.
    """
    name = _permutation_name(node)
    order = list(range(ndim))
    if name in ("t", "T"):
        order.reverse()
    elif name == "mT":
        order[-2:] = order[:-3:-1]
    elif name == "transpose":
        first, second = argument(node, 1, "dim0"), argument(node, 2, "dim1")
        if not isinstance(first, int) or not isinstance(second, int):
            return None
        order[first], order[second] = order[second], order[first]
    else:
        dims = node.args[1] if len(node.args) == 2 else node.args[1:] or node.kwargs.get("dims")
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        if len(dims) != ndim or not all(isinstance(dim, int) for dim in dims):
            return None
        order = [int(dim) % ndim for dim in dims]
    return tuple(order)


def is_view(node: Node) -> bool:
    """Return whether a call only shows its first argument in another shape, or a fixed section of it."""
    known = {"call_method": _VIEW_METHODS, "call_function": _VIEWS}.get(node.op, ())
    if is_permutation(node):
        return True
    return node.target in known and node.all_input_nodes == [*node.args[:1]] and not _is_one_of_several(node)


def _is_one_of_several(node: Node) -> bool:
    """Return whether a call picks one of the results of an op that has several, each a tensor of its own."""
    several = node.args[0] if node.target is operator.getitem else None
    return (
        isinstance(several, Node)
        and isinstance(several.target, OpOverload)
        and len(schema_of(several.target).returns) > 1
    )


def is_detached(node: Node) -> bool:
    """Return whether a view keeps gradients from its first argument."""
    return node.target in ("detach", torch.detach, aten.detach.default)


def is_section(node: Node) -> bool:
    """Return whether a view shows only a section of its first argument."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.partition(".")[0].strip("_") in _SECTION_NAMES


def is_in_place(node: Node) -> bool:
    """Return whether a call says that it changes an argument: by its name, its schema, ``inplace`` or ``out``."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None:
        return True
    is_functional = node.op == "call_function" and getattr(node.target, "__module__", "") == F.__name__
    if is_functional and named_argument(node, "inplace") is True:
        return True
    if isinstance(node.target, OpOverload):
        return bool(schema_of(node.target).is_mutable)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator":
        return name in _IN_PLACE_OPERATORS
    return (name.endswith("_") and not name.endswith("__")) or name.strip("_") in _IN_PLACE_OPERATORS


def _permutation_name(node: Node) -> str | None:
    if node.op == "call_method":
        return _PERMUTATION_METHODS.get(str(node.target))
    if node.op != "call_function":
        return None
    if node.target is getattr:
        return str(node.args[1]) if node.args[1] in ("T", "mT") else None
    return _PERMUTATIONS.get(node.target)


_IN_PLACE_OPERATORS = frozenset(
    (
        *("setitem", "delitem", "iadd", "iand", "iconcat", "ifloordiv", "ilshift", "imatmul", "imod"),
        *("imul", "ior", "ipow", "irshift", "isub", "itruediv", "ixor"),
    )
)
_PERMUTATION_METHODS = {
    "t": "t",
    "transpose": "transpose",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "permute": "permute",
}
_PERMUTATIONS: dict[Any, str] = {
    **{getattr(torch, method): name for method, name in _PERMUTATION_METHODS.items()},
    aten.t.default: "t",
    aten.transpose.int: "transpose",
    aten.permute.default: "permute",
    aten.numpy_T.default: "T",
    aten.mT.default: "mT",
}


_SECTION_NAMES = (
    "getitem",
    "narrow",
    "select",
    "slice",
    "chunk",
    "split",
    "split_with_sizes",
    "tensor_split",
    "unbind",
)
_VIEW_NAMES = ("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", *_SECTION_NAMES)
_VIEW_METHODS = frozenset((*_VIEW_NAMES, "__getitem__", "detach"))
_VIEWS: frozenset[Any] = frozenset(
    (
        operator.getitem,
        *(torch.detach, aten.detach.default),
        *(getattr(torch, name) for name in _VIEW_NAMES if hasattr(torch, name)),
        *(getattr(aten, name).default for name in ("view", "reshape", "unsqueeze", "squeeze", "alias")),
        ATEN_UNSAFE_VIEW,
        *(aten.squeeze.dim, aten.squeeze.dims, aten.flatten.using_ints, aten.unflatten.int, aten.select.int),
        *(aten.slice.Tensor, aten.narrow.default, aten.chunk.default, aten.split.Tensor, aten.split.sizes),
        *(aten.split_with_sizes.default, aten.unbind.int),
    )
)
