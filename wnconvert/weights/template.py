"""A function run on proxies once, to be written into graphs and found in them many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.fx import Graph, Node, Proxy
from torch.fx.node import map_arg
from torch.fx.proxy import GraphAppendingTracer


class Template:
    """The nodes that a function of proxies writes.

    Args:
        inputs: names of the placeholders.
        function: called with one proxy for each input, by name; returns the proxy of the result.
    """

    def __init__(self, inputs: tuple[str, ...], function: Callable[[Mapping[str, Proxy]], Proxy]) -> None:
        self.graph = Graph()
        tracer = GraphAppendingTracer(self.graph)
        self.inputs = {name: self.graph.placeholder(name) for name in inputs}
        proxies = {name: Proxy(node, tracer) for name, node in self.inputs.items()}
        self.output: Node = function(proxies).node
        self.calls = [node for node in self.graph.nodes if node.op != "placeholder"]

    @classmethod
    def of(cls, graph: Graph, inputs: tuple[str, ...], output: Node) -> Template:
        """Return the nodes of a graph that was written otherwise.

        Args:
            graph: the graph.
            inputs: names of its placeholders, in their order.
            output: the node of the result.
        """
        template = cls.__new__(cls)
        template.graph, template.output = graph, output
        placeholders = (node for node in graph.nodes if node.op == "placeholder")
        template.inputs = dict(zip(inputs, placeholders, strict=True))
        template.calls = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
        return template

    def write(self, graph: Graph, values: Mapping[str, Any], into: Node | None = None) -> Node:
        """Write the nodes at the insertion point of ``graph`` and return the last one.

        Args:
            graph: where to write.
            values: what stands in the place of each placeholder, by name.
            into: an existing node that becomes the last one; it keeps its name, its users and its meta.
        """
        copies = {self.inputs[name]: value for name, value in values.items()}

        def load(node: Node) -> Any:
            return copies[node]

        for node in self.calls:
            args, kwargs = map_arg(node.args, load), map_arg(node.kwargs, load)
            if node is self.output and into is not None:
                into.op, into.target, into.args, into.kwargs = node.op, node.target, args, kwargs
                return into
            copies[node] = graph.create_node(node.op, node.target, args, kwargs)
        result: Node = copies[self.output]
        return result

    def match(self, node: Node) -> dict[str, Any] | None:
        """Return what stands in the place of each placeholder if ``node`` ends just such calls, else None."""
        bound: dict[Node, Any] = {}
        if not _match(self.output, node, bound):
            return None
        return {name: bound[placeholder] for name, placeholder in self.inputs.items() if placeholder in bound}


def _match(pattern: Any, actual: Any, bound: dict[Node, Any]) -> bool:
    if isinstance(pattern, Node):
        if pattern.op == "placeholder":
            known = bound.setdefault(pattern, actual)
            return known is actual or (not isinstance(actual, Node) and known == actual)
        return (
            isinstance(actual, Node)
            and actual.op == pattern.op
            and actual.target == pattern.target
            and actual.kwargs.keys() == pattern.kwargs.keys()
            and _match(pattern.args, actual.args, bound)
            and all(_match(value, actual.kwargs[name], bound) for name, value in pattern.kwargs.items())
        )
    if isinstance(pattern, (tuple, list)):
        alike = isinstance(actual, (tuple, list)) and len(pattern) == len(actual)
        return alike and all(_match(p, a, bound) for p, a in zip(pattern, actual, strict=True))
    return type(pattern) is type(actual) and bool(pattern == actual)
