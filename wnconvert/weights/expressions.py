"""Weight expressions: which leaves they are computed from, what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from torch.fx import Node

from wnconvert.graph.constants import ancestors
from wnconvert.scheme import SCHEMES, Scheme, identify

#: below which `torch.nn.utils.parametrize` keeps what a weight is computed from, in a container of the weight's name
PARAMETRIZATIONS = "parametrizations"
_PARAMETRIZED = re.compile(rf"(?P<path>.+\.)?{PARAMETRIZATIONS}\.(?P<name>[^.]+)\.[^.]")
#: the end of the name of what torch's hooks compute a weight from
ORIGINAL = "_orig"


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
        stem, scheme = _identify(list(dict.fromkeys(str(leaf.target) for leaf in leaves)))
        result[root] = Source(nodes, leaves, stem, scheme)
    return result, shared


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
    return _reparametrized(fqns), None


def _reparametrized(fqns: list[str]) -> str | None:
    """Return the weight that one of torch's APIs splits into tensors of such names: parametrizations, or its hooks."""
    stems = {f"{found['path'] or ''}{found['name']}" for fqn in fqns if (found := _PARAMETRIZED.match(fqn))}
    if not stems and len(fqns) > 1:
        stems = {fqn.removesuffix(ORIGINAL) for fqn in fqns if fqn.endswith(ORIGINAL)}
        if not all(fqn.startswith(f"{stem}_") for stem in stems for fqn in fqns):
            return None
    return stems.pop() if len(stems) == 1 else None


def is_original(fqn: str) -> bool:
    """Return whether one of torch's APIs keeps under such a name what stands for the weight, and no mask or vector."""
    return fqn.endswith(ORIGINAL) or fqn.rpartition(".")[2].startswith("original")


@cache
def _part_names() -> tuple[str, ...]:
    classes = [SCHEMES.get(name) for name in SCHEMES]
    return tuple(dict.fromkeys(part for cls in classes for parts in cls.variants for part in parts))


_identify_parts = cache(identify)
