"""Weight expressions: which leaves they are computed from, what they are called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch.fx import Node

from wnconvert.graph.constants import ancestors
from wnconvert.naming import identify_weight
from wnconvert.scheme import Scheme


@dataclass
class Source:
    """What a weight expression is computed from.

    Attributes:
        nodes: the expression's nodes, each after its inputs.
        leaves: the get_attr nodes that its own calls read, calls that no other expression needs too; where those read
            none, all that it is computed from.
        stem: dotted name of the weight that its leaves are the parts of, ``"conv1.weight"``, if they are.
        scheme: the scheme that has such parts; None for those of torch's own modules that no scheme claims.
    """

    nodes: list[Node]
    leaves: list[Node]
    stem: str | None
    scheme: Scheme | None

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted names of the leaves."""
        return tuple(dict.fromkeys(str(leaf.target) for leaf in self.leaves))

    @property
    def names(self) -> tuple[str, ...]:
        """What it goes by: the stem, or the names of the leaves."""
        return self.keys if self.stem is None else (self.stem,)

    @property
    def label(self) -> str:
        """The same, for messages."""
        return ", ".join(self.names)


def sources(roots: Iterable[Node]) -> tuple[dict[Node, Source], set[Node]]:
    """Trace each root back to its leaves, in time linear in the graph.

    Returns:
        the source of each root, and the nodes that more than one root needs.
    """
    owner: dict[Node, Node] = {}
    shared: set[Node] = set()
    own: dict[Node, list[Node]] = {}
    for root in roots:
        own[root] = ancestors(root, shared)
        for node in own[root]:
            if owner.setdefault(node, root) is not root:
                shared.add(node)
    result = {}
    for root, nodes in own.items():
        own_calls = [node for node in nodes if node not in shared and node.op != "get_attr"]
        read = dict.fromkeys(child for node in own_calls for child in node.all_input_nodes)
        leaves = [node for node in read if node.op == "get_attr"]
        leaves = leaves or [node for node in ancestors(root) if node.op == "get_attr"]
        stem, scheme = identify_weight(list(dict.fromkeys(str(leaf.target) for leaf in leaves)))
        result[root] = Source(nodes, leaves, stem, scheme)
    return result, shared
