"""The weights that a graph hands to calls of other graphs: branches, loops, regions without gradients or of autocast.

No pass looks into those, so that such a weight is named here, and nobody takes it for a plain one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.fx import GraphModule

from wnconvert.graph.constants import constant_nodes
from wnconvert.graph.entries import Entries, locate
from wnconvert.naming import parts_by_weight
from wnconvert.torch_private import OpOverload
from wnconvert.weights.expressions import sources


class Inside(NamedTuple):
    """A weight that is read inside of a call.

    Attributes:
        names: dotted names of the weight, more than one if it is tied.
        keys: dotted names of what it is computed from; none where it is a parameter.
        graph: dotted name of the first graph that is called.
        kind: what calls it, ``"cond"``.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    graph: str
    kind: str


def read_inside(module: GraphModule) -> Iterator[Inside]:
    """Yield the weights that calls of other graphs read, in order; those of several calls once for each.

    What is normalized inside of the call is known by the names of its parts, and what is normalized in front of it by
    the calls that compute it.
    """
    entries, constants = Entries(module), constant_nodes(module.graph)
    for node in module.graph.nodes:
        if node.op != "call_function" or isinstance(node.target, OpOverload):
            continue
        operands = node.all_input_nodes
        fetched = [str(each.target) for each in operands if each.op == "get_attr"]
        graphs = [name for name in fetched if isinstance(locate(module, name), GraphModule)]
        if not graphs:
            continue
        where = graphs[0], getattr(node.target, "__name__", str(node.target))
        tensors = {name: entries.tensors[name] for name in fetched if name in entries.tensors}
        weights = parts_by_weight(list(tensors))
        yield from (Inside((name,), keys, *where) for name, keys in weights.items())
        parts = {key for keys in weights.values() for key in keys}
        for name, tensor in tensors.items():
            if name not in parts and isinstance(tensor, nn.Parameter) and _is_weight(tensor):
                yield Inside(tuple(owner.fqn for owner in entries.owners(tensor)), (), *where)
        computed = (each for each in operands if each.op == "call_function" and each in constants)
        roots = [each for each in computed if _is_weight(each.meta.get("val"))]
        for source in sources(roots)[0].values():
            if any(isinstance(entries.tensors.get(key), nn.Parameter) for key in source.keys):
                yield Inside((source.label,), source.keys, *where)


def _is_weight(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.dim() >= 2 and tensor.is_floating_point()
