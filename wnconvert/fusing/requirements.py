"""What must hold for a map to move: the same shapes and dtypes as before, and nothing that is changed in between."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import GraphModule, Node

from wnconvert.fusing.affines import SECOND, AffineCall
from wnconvert.fusing.flow import Flow, dtype_of, readers, shape_of
from wnconvert.fusing.layers import Layer
from wnconvert.fusing.reads import Reads
from wnconvert.graph.calls import is_view
from wnconvert.graph.writes import Writes, may_alias
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import is_erased


class Refused(Exception):  # noqa: N818 (it is no error: the affine map stays)
    """Why an affine map stays where it is."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Requirements:
    """What is asked of the maps of one graph, as it was before anything moved.

    Args:
        graph_module: the graph.
        reads: who reads the tensors of the model.
    """

    def __init__(self, graph_module: GraphModule, reads: Reads) -> None:
        self._reads = reads
        self._flow = Flow(graph_module)
        self._writes = Writes(graph_module)
        self._position = {node: place for place, node in enumerate(graph_module.graph.nodes)}

    def move(self, gone: Node, value: Node) -> None:
        """Note that a value is read instead of that of a node that is gone."""
        self._writes.move(gone, value)

    @staticmethod
    def require_own(call: AffineCall) -> None:
        """Refuse to leave out a change in place that anything else sees."""
        if call.in_place and (len(readers(call.input)) > 1 or not _is_new(call.input)):
            raise Refused(Why.USED_ELSEWHERE(what="what it changes in place"))

    @staticmethod
    def require_shape(call: AffineCall) -> None:
        """Refuse a constant that gives its input more dims, or more channels."""
        before, after = shape_of(call.input), shape_of(call.node)
        if not call.rank or before is None:
            return
        sizes = zip(before, after or before, strict=False)
        grown = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
        if grown or call.rank > len(before):
            raise Refused(Why.RANK(before=before, after="a larger one" if after is None else after))

    def require_seen(self, call: AffineCall) -> None:
        """Refuse a product or sum with an input of the model of which nothing is known: it may become another kind."""
        if call.fusion != "gain" or call.gain is not None or shape_of(call.input) is not None:
            return
        source = call.input
        while (passed := self._flow.passed(source, None)) or is_view(source):
            if not call.rank and dtype_of(source) is not None:  # a number leaves shape and dtype of floats
                return
            source = passed[0] if passed else source.all_input_nodes[0]
        if source.op == "placeholder":
            raise Refused(Why.UNSEEN(input=source.name))

    def require_kept(self, tensors: Iterable[str]) -> None:
        """Refuse what the graph changes: the constant is no constant."""
        for fqn in tensors:
            changes = (change for fetch in self._reads.fetches(fqn) for change in self._writes.others(fetch))
            if (change := next(changes, None)) is not None:
                raise Refused(Why.CHANGED_IN_PLACE(who=f"node {change.name!r}", what=repr(fqn)))

    def require_unchanged(self, call: AffineCall, layers: list[Layer]) -> None:
        """Refuse what is changed in place between the map, which read it, and the layers, which would read it then."""
        if call.gain is not None:
            return
        first, last = self._position[call.node], max(self._position[layer.node] for layer in layers)
        for change in self._writes.of_value(call.input):
            if first < self._position[change] < last and not is_erased(change):
                raise Refused(Why.CHANGED_IN_PLACE(who=f"node {change.name!r}", what=repr(call.input.name)))

    @staticmethod
    def require_channel(call: AffineCall, layer: Layer, dim: int | None) -> None:
        """Refuse a map over another dim than that of the channels of a layer."""
        # where nothing shows it, a convolution is taken to read batches
        if shape_of(call.input) is None and call.rank > (1 - layer.channel if layer.is_convolution else 1):
            raise Refused(Why.RANK(rank=call.rank))
        if dim is None or dim == layer.channel or (dim == SECOND and layer.is_convolution):
            return
        if dim == SECOND:
            raise Refused(Why.RANK(channels=call.affine.channels))
        others = f"has its own in dim {layer.channel}"
        raise Refused(Why.CHANNELS(channels=call.affine.channels, dim=dim, fqn=layer.fqn, others=others))

    def require_dtype(self, call: AffineCall, layer: Layer, cast: Node | None) -> None:
        """Refuse a map that may give another dtype than what it reads: that of a layer, or of a cast behind it."""
        weight = self._reads.tensor(layer.fqn)
        if call.dtype is None or weight is None:
            return
        if cast is not None and (own := dtype_of(cast)) != call.dtype:
            raise Refused(Why.PROMOTES(dtype=call.dtype, cast=cast.name, own=own or "any"))
        if cast is None and call.dtype != weight.dtype:
            raise Refused(Why.PROMOTES(dtype=call.dtype, fqn=layer.fqn, own=weight.dtype))

    @staticmethod
    def require_floats(call: AffineCall) -> None:
        """Refuse a map that turns its input into what a layer can read."""
        before, after = dtype_of(call.input), dtype_of(call.node)
        if before is not None and after is not None and before != after:
            raise Refused(Why.PROMOTES(dtype=after, input=call.input.name, own=before))


def from_last(call: AffineCall) -> int | None:
    """Return the dim of a map counted from the last, where the rank of what it reads is known."""
    shape = shape_of(call.input)
    return call.dim if call.dim is None or call.dim < 0 or shape is None else call.dim - len(shape)


def _is_new(node: Node) -> bool:
    """Return whether a value has memory of its own, which nothing that it is computed from shows."""
    return node.op in ("call_function", "call_method") and not may_alias(node)
