"""Which weights of an ONNX graph are computed, and from what: found in time linear in the graph.

A value is constant if it is an initializer that callers cannot replace, or if it is computed from such values alone. A
constant that enters a weighted op which is not constant itself is a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import onnx_ir as ir

from wnconvert.onnx_files.ops import BIASES, CONTROL, MOVES, PURE, RANDOM, STORED, WEIGHTS
from wnconvert.reasons import Reason, Why


@dataclass(eq=False)
class Weight:
    """A constant that weighted ops read.

    Attributes:
        value: the value that they read.
        sites: the nodes that read it as a weight, and at which index.
        reason: why it is not to be evaluated; None if it is computed and can be.
        nodes: the calls that compute it and no other weight, each after its inputs.
        leaves: the values that those calls read and that no call computes, constants of the graph included.
        base: the weight of which it is another arrangement, if that is computed and converted itself.
    """

    value: ir.Value
    sites: list[tuple[ir.Node, int]] = field(default_factory=list)
    reason: Reason | None = None
    nodes: list[ir.Node] = field(default_factory=list)
    leaves: list[ir.Value] = field(default_factory=list)
    base: Weight | None = None

    @property
    def ops(self) -> str:
        """The names of the ops that read it."""
        return ",".join(dict.fromkeys(node.op_type for node, _ in self.sites))

    @property
    def is_bias(self) -> bool:
        """Whether all read it as a bias."""
        return all((node.op_type, index) in BIASES for node, index in self.sites)

    @property
    def operand(self) -> str:
        """What ONNX calls the operand."""
        node, index = self.sites[0]
        return WEIGHTS[node.op_type][index]


@dataclass(frozen=True)
class Found:
    """The weights of a model.

    Attributes:
        weights: all of them, in the order of the ops that read them.
        groups: those that can be evaluated; weights that share calls are in one group.
        order: the place of each call that computes one.
    """

    weights: list[Weight]
    groups: list[list[Weight]]
    order: dict[ir.Node, int]


def graphs_of(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the graph of a model and the graphs in it, each after the one that holds it."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        inner = [each for node in graph for each in bodies(node)]
        pending += reversed(inner)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node holds."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def first_unknown(model: ir.Model) -> str | None:
    """Return the name of a value that is read and nowhere made, if there is one."""
    known: set[ir.Value] = set()
    graphs = list(graphs_of(model))
    for graph in graphs:
        known |= {*graph.inputs, *graph.initializers.values()}
        known |= {output for node in graph for output in node.outputs}
    for graph in graphs:
        read = (value for node in graph for value in node.inputs if value is not None)
        for value in chain(read, graph.outputs):
            if value not in known:
                return value.name or ""
    return None


def find_weights(model: ir.Model) -> Found:
    """Return the weights of a model. Functions that it defines are not looked into."""
    constants: dict[ir.Value, Reason | None] = {}
    order: dict[ir.Node, int] = {}
    weights: dict[ir.Value, Weight] = {}
    for graph in graphs_of(model):
        for initializer in graph.initializers.values():
            constants[initializer] = _against_initializer(initializer)
        for node in graph:
            order[node] = len(order)
            if _is_constant(node, constants):
                reason = _against(node, constants)
                constants |= dict.fromkeys(node.outputs, reason)
            else:
                _take_weights(node, constants, weights)
    computed = []
    for weight in weights.values():
        weight.reason = _against_weight(weight.value, constants[weight.value], weights)
        if weight.reason is None:
            computed.append(weight)
    _tell_arrangements(computed)
    return Found(list(weights.values()), _grouped([each for each in computed if not each.base], order), order)


def is_stored(value: ir.Value) -> bool:
    """Return whether the graph holds a value as it is."""
    producer = value.producer()
    return producer is None or (producer.op_type == "Constant" and producer.domain == "")


def _is_constant(node: ir.Node, constants: dict[ir.Value, Reason | None]) -> bool:
    """Return whether a node reads constants alone, in the graphs that it holds too."""
    return all(value in constants for value in _read_by(node))


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads of what stands outside of it."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        own = {*body.inputs, *body.initializers.values(), *(output for each in body for output in each.outputs)}
        yield from (value for each in body for value in _read_by(each) if value not in own)
        yield from (value for value in body.outputs if value not in own)


def _against_initializer(value: ir.Value) -> Reason | None:
    if value.is_graph_input():
        return Why.NOT_COMPUTED(source=value.name, what="callers may replace, for it is an input of the graph too")
    return None


def _against(node: ir.Node, constants: dict[ir.Value, Reason | None]) -> Reason | None:
    """Return why a node that reads constants alone is not evaluated."""
    if node.op_type in CONTROL:
        return Why.OPAQUE(read="inside", module=node.name, kind=node.op_type)
    for value in node.inputs:
        if value is not None and (reason := constants[value]) is not None:
            return reason
    if node.domain == "" and node.op_type in RANDOM:
        return Why.RANDOM(how=f" ({node.op_type})")
    if node.domain != "" or node.op_type not in PURE:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return Why.FAILS(error=f"{name} is no operator that is known to give one result for good")
    return None


def _take_weights(node: ir.Node, constants: dict[ir.Value, Reason | None], weights: dict[ir.Value, Weight]) -> None:
    if node.domain != "":
        return
    for index in WEIGHTS.get(node.op_type, ()):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value in constants and value.dtype not in _NO_WEIGHTS:
            weights.setdefault(value, Weight(value)).sites.append((node, index))


#: dtypes of tables and masks
_NO_WEIGHTS = {
    *(ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16),
    *(ir.DataType.UINT64, ir.DataType.UINT32, ir.DataType.UINT16, ir.DataType.INT8, ir.DataType.UINT8),
}


def _against_weight(value: ir.Value, reason: Reason | None, weights: dict[ir.Value, Weight]) -> Reason | None:
    """Return why a weight is not evaluated: mostly, because it is stored as it is."""
    moves, base = _moved(value)
    if not is_stored(base):
        return reason
    stored = [STORED[node.op_type] for node in moves if node.op_type in STORED]
    if stored:
        return Why.ALREADY_COMPUTED(how=stored[-1])
    shared = any(len(each.uses()) > 1 for each in (base, *(node.inputs[0] for node in moves[:-1])) if each is not None)
    return Why.ALREADY_PLAIN() if not moves or shared or base in weights else reason


def _moved(value: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """Return the nodes that only arrange or restore what is stored, the last first, and the value before them."""
    nodes = []
    producer = value.producer()
    while producer is not None and producer.domain == "" and (producer.op_type in MOVES or producer.op_type in STORED):
        if not producer.inputs or producer.inputs[0] is None:
            break
        nodes.append(producer)
        value = producer.inputs[0]
        producer = value.producer()
    return nodes, value


def _tell_arrangements(computed: list[Weight]) -> None:
    """Find the weights that are other arrangements of another: a head that is tied to an embedding, transposed."""
    by_value: dict[ir.Value | None, Weight] = {weight.value: weight for weight in computed}
    for weight in computed:
        value: ir.Value | None = weight.value
        while value is not None and (producer := value.producer()) is not None and producer.op_type in MOVES:
            value = producer.inputs[0] if producer.inputs else None
            if value in by_value:
                weight.base = by_value[value]
                break


def _grouped(weights: list[Weight], order: dict[ir.Node, int]) -> list[list[Weight]]:
    """Give each weight the calls that are its own, and return the weights by the calls that they share."""
    owner: dict[ir.Node, Weight] = {}
    shared: set[ir.Node] = set()
    leader: dict[Weight, Weight] = {weight: weight for weight in weights}
    for weight in weights:
        for node in _take_calls(weight, owner):
            shared.add(node)
            leader[_lead(weight, leader)] = _lead(owner[node], leader)
    calls = sorted(owner, key=order.__getitem__)
    for node in reversed(calls):  # what a shared call reads is shared too
        if node in shared:
            shared.update(n for v in node.inputs if v is not None and (n := v.producer()) is not None)
    for node in calls:
        owner[node].nodes.append(node)
    groups: dict[Weight, list[Weight]] = {}
    for weight in weights:
        own = [node for node in weight.nodes if node not in shared] or weight.nodes
        read = dict.fromkeys(value for node in own for value in node.inputs if value is not None)
        weight.leaves = [value for value in read if is_stored(value)]
        groups.setdefault(_lead(weight, leader), []).append(weight)
    return list(groups.values())


def _take_calls(weight: Weight, owner: dict[ir.Node, Weight]) -> Iterator[ir.Node]:
    """Make a weight the owner of the calls that it is computed by; yield those that another has, and go no further."""
    pending = [weight.value.producer()]
    while pending:
        node = pending.pop()
        if node is None or all(map(is_stored, node.outputs)):
            continue
        if node not in owner:
            owner[node] = weight
            pending += [value.producer() for value in node.inputs if value is not None]
        elif owner[node] is not weight:
            yield node


def _lead(weight: Weight, leader: dict[Weight, Weight]) -> Weight:
    while leader[weight] is not weight:
        leader[weight] = weight = leader[leader[weight]]
    return weight
