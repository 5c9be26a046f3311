"""What the calls of a graph change in place: parameters, buffers, and what weights are computed from.

`constants` finds out what an expression does by running it; here the question is what the rest of the graph does to it,
which is read off without running anything. In doubt, two nodes share memory.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from wnconvert.graph.calls import argument, is_in_place, is_view
from wnconvert.graph.constants import ancestors, is_mode_flag, memory_of
from wnconvert.graph.entries import locate
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import UNSAFE_VIEW, OpOverload, schema_of


class Writes:
    """The in-place calls of a graph, by what they change, also through views, ``.data`` and tied tensors."""

    def __init__(self, graph_module: GraphModule) -> None:
        self._root = graph_module
        self._calls: dict[Node, list[Node]] = defaultdict(list)
        over: dict[int, list[Node]] = defaultdict(list)
        for node in graph_module.graph.nodes:
            if node.op == "get_attr":
                over[self._memory(node)].append(node)
            for written in written_by(node):
                for base in may_be(written):
                    self._calls[base].append(node)
        #: the calls that change what a get_attr node reads, through whichever node
        self._of_leaf = {
            read: changes
            for reads in over.values()
            if (changes := [call for each in reads for call in self._calls.get(each, ())])
            for read in reads
        }
        self._disturbing = {node: calls for node, calls in self._calls.items() if node.op != "get_attr"}
        self._disturbing |= {read: rest for read in self._of_leaf if (rest := self.others(read))}

    def updates(self, read: Node) -> list[Node]:
        """Return the calls that change what a get_attr node reads in training alone, as `emission` writes them."""
        return [call for call in self._of_leaf.get(read, ()) if self._is_for_training(call)]

    def others(self, read: Node) -> list[Node]:
        """Return all other calls that change what a get_attr node reads."""
        return [call for call in self._of_leaf.get(read, ()) if not self._is_for_training(call)]

    def of_value(self, node: Node) -> set[Node]:
        """Return the calls that may change what a node has given."""
        return {call for base in may_be(node) for call in self._calls.get(base, ())}

    def move(self, gone: Node, value: Node) -> None:
        """Note that what changed the value of a node that is gone changes that of another now."""
        if changes := self._calls.pop(gone, None):
            self._calls[value] += changes

    def reason_against(self, root: Node) -> Reason | None:
        """Return why an expression has no value of its own: the graph changes what it reads, or its result."""
        if not self._disturbing:
            return None
        nodes = ancestors(root)
        inside = set(nodes)
        for node in nodes:
            for call in self._disturbing.get(node, ()):
                if node.op == "get_attr":
                    return Why.CHANGED_IN_PLACE(who=f"node {call.name!r}", what=repr(str(node.target)))
                # a change that stays inside is part of the value
                seen_outside = (user for alias in _aliases(node) if alias is not root for user in alias.users)
                if call not in inside or not inside.issuperset(seen_outside):
                    return Why.CHANGED_IN_PLACE(who=f"node {call.name!r}", what="it")
        return None

    def _memory(self, read: Node) -> int:
        tensor = locate(self._root, str(read.target))
        return memory_of(tensor) if isinstance(tensor, Tensor) else id(tensor)

    def _is_for_training(self, call: Node) -> bool:
        """Whether a call is ``leaf.copy_(where(flag > 0, leaf, new))``."""
        if call.users or call.target != "copy_" or len(call.args) != 2:
            return False
        leaf, value = call.args
        if not isinstance(leaf, Node) or leaf.op != "get_attr":
            return False
        condition = value.args[0] if isinstance(value, Node) and value.op == "call_function" and value.args else None
        flag = condition.args[0] if isinstance(condition, Node) and condition.args else None
        if not isinstance(flag, Node) or flag.op != "call_module":
            return False
        return is_mode_flag(locate(self._root, str(flag.target)))


def _aliases(node: Node) -> Iterable[Node]:
    """Return ``node`` and every node that may yield its memory: views, and what in-place calls return."""
    found: dict[Node, None] = {node: None}
    pending = [node]
    while pending:
        for user in pending.pop().users:
            if user not in found and may_alias(user):
                found[user] = None
                pending.append(user)
    return found


def may_be(node: Node) -> Iterator[Node]:
    """Yield ``node`` and every node whose memory it may yield."""
    pending, seen = [node], {node}
    while pending:
        node = pending.pop()
        yield node
        if may_alias(node):
            pending += (new := [each for each in node.all_input_nodes if each not in seen])
            seen.update(new)


def written_by(node: Node) -> list[Node]:
    """Return the inputs that a call changes in place, as far as the call itself says so."""
    if not (_is_in_place_module(node) if node.op == "call_module" else is_in_place(node)):
        return []
    values = [node.kwargs.get("out")]
    if isinstance(node.target, OpOverload):
        for index, formal in enumerate(schema_of(node.target).arguments):
            if formal.is_write:
                values.append(argument(node, index, formal.name))
    elif values == [None]:
        values = [*node.args[:1], node.kwargs.get("input")]
    found: list[Node] = []
    map_arg(values, found.append)
    return found


def _is_in_place_module(node: Node) -> bool:
    module = locate(node.graph.owning_module, str(node.target)) if node.graph.owning_module else None
    return getattr(module, "inplace", False) is True


def may_alias(node: Node) -> bool:
    """Return whether a node may yield memory of what it is computed from."""
    if node.op not in ("call_function", "call_method"):
        return node.op == "call_module"
    # an index that is a tensor gives a view too, if it is one whole number
    if is_view(node) or is_in_place(node) or node.target in (operator.getitem, "__getitem__"):
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if isinstance(node.target, OpOverload):
        name = schema_of(node.target).name.partition("::")[2]
    if name in _RETURN_THEIR_INPUT:
        return True
    if node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator":
        return False
    declared = _declared(name)
    return name not in _COMPOSITES if declared is None else declared


@cache
def _declared(name: str) -> bool | None:
    """Return whether ATen declares that a function of that name may return memory of an argument, None if unknown."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return None
    schemas = [schema_of(getattr(packet, overload)) for overload in packet.overloads()]
    results = [result for schema in schemas if not any(a.is_out for a in schema.arguments) for result in schema.returns]
    return any(result.alias_info is not None for result in results)


#: their schemas promise a new tensor, which they do not always return
_RETURN_THEIR_INPUT = frozenset(
    (
        *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "type_as"),
        *("einsum", "broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d", "sum_to_size"),
        *(UNSAFE_VIEW, "to_dense", "cartesian_prod", "data"),
    )
)

#: functions that ATen does not know by these names, and that return a new tensor
_COMPOSITES = frozenset(("normalize",))
