"""Weight expressions: which leaves they are computed from, what they are called, which state they update."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from torch.fx import GraphModule, Node

from wnconvert.graph.constants import ancestors, is_mode_flag
from wnconvert.graph.entries import locate
from wnconvert.graph.ops import is_in_place
from wnconvert.scheme import SCHEMES, Scheme, identify


@dataclass
class Source:
    """What a weight expression is computed from.

    Attributes:
        nodes: the expression's nodes, each after its inputs.
        leaves: the get_attr nodes that its own calls read: calls that no other expression needs too.
        stem: dotted name of the weight that its leaves are the parts of, ``"conv1.weight"``, if they are.
        scheme: the scheme that has such parts.
    """

    nodes: list[Node]
    leaves: list[Node]
    stem: str | None
    scheme: Scheme | None

    @property
    def label(self) -> str:
        """A name for messages: the stem, or the names of the leaves."""
        return self.stem or ", ".join(dict.fromkeys(str(leaf.target) for leaf in self.leaves))


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
        leaves = [node for node in read or ancestors(root) if node.op == "get_attr"]
        stem, scheme = _identify(list(dict.fromkeys(str(leaf.target) for leaf in leaves)))
        result[root] = Source(nodes, leaves, stem, scheme)
    return result, shared


def state_updates(graph_module: GraphModule, reads: Iterable[Node]) -> tuple[list[Node], list[Node]]:
    """Return the in-place calls on a tensor: those that only run in training, as emitted, and all others.

    Args:
        graph_module: the model.
        reads: the get_attr nodes that fetch the tensor.
    """
    users = [(user, read) for read in reads for user in read.users]
    writes = [user for user, read in users if is_in_place(user) and user.args and user.args[0] is read]
    updates = [write for write in writes if not write.users and _is_for_training(graph_module, write)]
    return updates, [write for write in writes if write not in updates]


def _is_for_training(graph_module: GraphModule, write: Node) -> bool:
    """Whether a write is ``leaf.copy_(where(flag > 0, leaf, new))``."""
    value = write.args[1] if write.target == "copy_" and len(write.args) == 2 else None
    condition = value.args[0] if isinstance(value, Node) and value.op == "call_function" and value.args else None
    flag = condition.args[0] if isinstance(condition, Node) and condition.args else None
    if not isinstance(flag, Node) or flag.op != "call_module":
        return False
    return is_mode_flag(locate(graph_module, str(flag.target)))


def _identify(fqns: list[str]) -> tuple[str | None, Scheme | None]:
    """Return the stem whose parts, with what all weights share, are exactly the given names, and their scheme."""
    parts_of_stem: dict[str, set[str]] = {}
    for fqn in fqns:
        for part in _part_names():
            if fqn.endswith(f"_{part}"):
                parts_of_stem.setdefault(fqn[: -len(part) - 1], set()).add(part)
    for stem, parts in parts_of_stem.items():
        scheme = _identify_parts(frozenset(parts))
        if scheme is not None and {f"{stem}_{part}" for part in parts} == set(fqns).difference(scheme.shared):
            return stem, scheme
    return None, None


@cache
def _part_names() -> tuple[str, ...]:
    classes = [SCHEMES.get(name) for name in SCHEMES]
    return tuple(dict.fromkeys(part for cls in classes for parts in cls.variants for part in parts))


_identify_parts = cache(identify)
