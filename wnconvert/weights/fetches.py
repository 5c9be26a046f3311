"""Where the fetches of a weight stood before nodes took their place, so that a fold can put them back.

A weight that is read at several sites is composed once, before its first use; of its fetches one moves there, and the
others go. What is noted is lost in pickling, like all of `node.meta`; a fold then writes one fetch, before its use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch.fx import Graph, Node

from wnconvert.torch_private import take_name

#: node.meta key of the node that yields a composed weight: its `Fetch`es
_META = "wnconvert.fetches"


class Fetch(NamedTuple):
    """A get_attr node that was: nodes are given by name, for those outlive a copy of the graph.

    Attributes:
        name: its name.
        target: dotted name of the tensor.
        before: the node behind it.
        users: the nodes that read it.
        meta: its meta.
    """

    name: str
    target: str
    before: str
    users: tuple[str, ...]
    meta: dict[str, Any]


def note(reads: Iterable[Node]) -> tuple[Fetch, ...]:
    """Return what is to be remembered of fetches; called before the graph is changed."""
    return tuple(
        Fetch(read.name, str(read.target), read.next.name, tuple(user.name for user in read.users), dict(read.meta))
        for read in reads
    )


def attach(composed: Node, fetches: tuple[Fetch, ...]) -> None:
    """Remember ``fetches`` at the node that yields the weight now."""
    # as plain tuples, for whoever keeps a node's meta
    composed.meta[_META] = tuple(map(tuple, fetches))


def restore(graph: Graph, folded: Iterable[Node]) -> None:
    """Put fetches back where they stood; ``folded`` are the get_attr nodes of weights that are plain again."""
    nodes = {node.name: node for node in graph.nodes}
    pending = {}
    for node in folded:
        for fetch in (Fetch(*facts) for facts in node.meta.pop(_META, ())):
            pending[fetch.name] = fetch, node
    while pending:
        # what stood before another fetch is put back after that one
        chain = [pending.pop(next(iter(pending)))]
        while chain[-1][0].before in pending:
            chain.append(pending.pop(chain[-1][0].before))
        for fetch, node in reversed(chain):
            _restore(nodes, fetch, node)


def _restore(nodes: dict[str, Node], fetch: Fetch, node: Node) -> None:
    users = [nodes[name] for name in fetch.users if name in nodes and node in nodes[name].all_input_nodes]
    before = nodes.get(fetch.before)
    if before is None or len(users) < len(fetch.users) or any(user < before for user in users):
        return  # somebody changed the graph meanwhile
    if fetch.name == node.name:
        before.prepend(node)
        return
    with node.graph.inserting_before(before):
        again = node.graph.create_node("get_attr", node.target, name=fetch.name)
    if again.name != fetch.name and fetch.name not in nodes:
        # a graph keeps the names of erased nodes from being used again, though nothing has this one any more
        take_name(again, fetch.name)
    again.meta.update(fetch.meta)
    nodes[fetch.name] = again
    for user in users:
        user.replace_input_with(node, again)
