"""Model -> GraphModule that keeps the model's own modules, keys and key order, and does what the model does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, product
from math import prod
from types import UnionType
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.proxy import TraceError

from wnconvert.errors import TracingError
from wnconvert.graph.entries import has_attribute, join
from wnconvert.graph.whole import WholeGraphModule
from wnconvert.reasons import Reason, Why
from wnconvert.torch_private import children_of, set_graph
from wnconvert.tracing.circumstances import Circumstances, generators_restored
from wnconvert.tracing.divergence import DROPOUTS, Comparison
from wnconvert.tracing.hazards import Hazard, HazardError
from wnconvert.tracing.helpers import Helper
from wnconvert.tracing.shadow import is_leaf, reason_for_one_node, shadow_of
from wnconvert.tracing.tracer import Again, Observer, reason_of
from wnconvert.tracing.writer import Frame

_WAY_OUT = (
    "convert the module itself (how='module'), or torch.export.export(model, inputs).module() for one kind of call"
)

#: key of a graph module's meta: why parameters must stay what they are, by dotted name
_REMARKS = "remarks"

#: an argument that a call gives; and how many calls are tried
_GIVEN, _MOST_CALLS = object(), 64

#: what tracing looks for
OBSERVED = frozenset(Hazard)


@dataclass(frozen=True)
class Traced:
    """A graph of a model, over the names of its modules and tensors.

    Attributes:
        graph: the graph.
        constants: tensors that it fetches and that the model does not hold, by name.
        opaque: dotted names of the modules that it does not look into although they are not torch's own, with reasons.
        followers: calls of dropout that are told the mode of the root.
    """

    graph: Graph
    constants: dict[str, Tensor]
    opaque: dict[str, str]
    followers: set[Node] = field(default_factory=set)


def trace(model: nn.Module, *, recompile: bool = True) -> GraphModule:
    """Return a graph that does what ``model`` does, on every call; it shares the modules and tensors of the model.

    The model is not touched, not even while its forward is run: that happens on a stand-in. Each module whose forward
    does something that a graph would lose (`wnconvert.tracing.hazards.Hazard`) is one `call_module` node; the reasons
    are in ``graph_module.meta["opaque"]``. The forward is traced in training and in evaluation mode, with and without
    gradients and autocast, and with its optional arguments given and left out: graphs that differ are no graph.

    Unlike with `torch.fx.symbolic_trace`, the graph module holds *all* of the model's modules, parameters and buffers
    under their names and in their order, so that its state dict is the model's. A `GraphModule` is returned as it is.

    Args:
        model: what to trace.
        recompile: generate the code of the graph module; without, the caller does so before it is run.

    Raises:
        TracingError: the model has no such graph; the message says why.
    """
    if isinstance(model, GraphModule):
        return model
    graph_module = as_graph_module(model, trace_graph(model), recompile)
    remarks: dict[str, Reason] = {}
    find_graphs(model, remarks)
    # plain data, for the meta is pickled with the graph, which loads without wnconvert
    graph_module.meta[_REMARKS] = {fqn: (reason.why.name, str(reason)) for fqn, reason in remarks.items()}
    return graph_module


def remarks_of(graph_module: GraphModule) -> dict[str, Reason]:
    """Return why parameters must stay what they are, by dotted name, as `trace` found out."""
    remarks = graph_module.meta.get(_REMARKS, {})
    return {fqn: Reason(text, Why[name]) for fqn, (name, text) in remarks.items()}


def trace_leaves(model: nn.Module) -> GraphModule:
    """Trace one module alone: as `trace`, but each module that it calls is one node."""
    return as_graph_module(model, trace_graph(model, leaves=True))


@generators_restored()
def trace_graph(model: nn.Module, *, leaves: bool = False) -> Traced:
    """Return the graph of `trace`, without a graph module around it.

    Args:
        model: what to trace.
        leaves: let every module but the root be one node.
    """
    hazard = reason_for_one_node(model, type(model), is_root=True)
    if hazard in OBSERVED:
        raise TracingError(f"{_name(model)!r} has no graph of its own: {hazard.value}; {_WAY_OUT}")
    opaque: dict[str, str] = {}
    helpers: set[Helper] = set()
    whose_draws = False
    while True:
        observer = Observer(opaque, OBSERVED, helpers, leaves=leaves, whose_draws=whose_draws)
        try:
            observer.watch(shadow_of(model, observer))
            graph = observer.trace(Circumstances())
            constants = observer.frame.constants
            found, followers = ({}, set()) if observer.blamed else _compare_circumstances(observer, graph)
        except Again:
            opaque, helpers, whose_draws = observer.opaque, observer.helpers, observer.whose_draws
            continue
        except TracingError:
            raise
        except Exception as error:
            raise TracingError(f"{_name(model)!r} cannot be traced: {reason_of(error)}; {_WAY_OUT}") from error
        found |= observer.blamed
        if "" in found:
            raise TracingError(f"{_name(model)!r} has no single graph: {found['']}; {_WAY_OUT}")
        if not found and observer.opaque.keys() == opaque.keys():
            return Traced(graph, constants, opaque, followers)
        opaque = {**observer.opaque, **found}


@generators_restored()
def find_graph(model: nn.Module, remarks: dict[str, Reason] | None = None, *, leaves: bool = False) -> Traced:
    """Return a graph that shows which tensors of ``model`` enter which ops, as far as any tracing can.

    It need not do what the model does, and is not to be run.

    Args:
        model: what to trace.
        remarks: takes up why parameters cannot become weights that are composed when they are read, by dotted name,
            also where the model cannot be traced to the end.
        leaves: let every module but the root be one node.

    Raises:
        TracingError: the model cannot be traced.
    """
    helpers: set[Helper] = set()
    while True:
        observer = Observer({}, OBSERVED, helpers, finding=True, leaves=leaves)
        try:
            observer.watch(shadow_of(model, observer))
            graph = observer.trace(Circumstances())
            if observer.asked_mode:
                # only for what is to be remarked there
                with suppress(Exception):
                    observer.trace(Circumstances(other_mode=True))
            return Traced(graph, observer.frame.constants, observer.opaque)
        except Again:
            helpers = observer.helpers
        except TracingError:
            raise
        except Exception as error:
            raise TracingError(f"{_name(model)!r} cannot be traced: {reason_of(error)}") from error
        finally:
            if remarks is not None:
                remarks |= observer.remarks


def find_graphs(model: nn.Module, remarks: dict[str, Reason]) -> tuple[list[Graph], str | None]:
    """Return the graphs of a model and, by themselves, of the parts that those do not look into; see `find_graph`.

    Args:
        model: what to trace.
        remarks: as for `find_graph`.

    Returns:
        the graphs, over the names of the whole model, and why that has none, if it has none.
    """
    graphs, note = [], None
    pending, seen = [("", model)], set[int]()
    while pending:
        path, part = pending.pop(0)
        if id(part) in seen or is_leaf(type(part)):
            continue
        seen.add(id(part))
        own_remarks: dict[str, Reason] = {}
        try:
            traced = find_graph(part, own_remarks)
            pending += [(join(path, name), part.get_submodule(name)) for name in traced.opaque]
            graphs.append(_named_below(path, traced.graph))
        except TracingError as error:
            note = note or str(error)
            pending += [(join(path, name), child) for name, child in part.named_children()]
        for fqn, remark in own_remarks.items():
            remarks.setdefault(join(path, fqn), remark)
    return graphs, note


def _named_below(path: str, graph: Graph) -> Graph:
    if not path:
        return graph
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            node.target = join(path, str(node.target))
    return graph


def _compare_circumstances(observer: Observer, graph: Graph) -> tuple[dict[str, str], set[Node]]:
    """Trace in all other circumstances, and compare with the first time.

    Returns:
        the modules in which another graph came out, with the reason; and the dropouts of the root's own forward that
        are told the mode. A module that cannot be traced in some circumstances becomes one node of the observer's; then
        no more are tried.
    """
    first, known, followers = observer.frame, len(observer.opaque), None
    modes = (False, True) if observer.asked_mode else (False,)
    # the very first circumstances once more: a second call may do something else
    ways = [*product((True, False), (False, True), (False,)), (False, False, True)]
    for other_mode, (grad, autocast, inference) in product(modes if Hazard.MODE in OBSERVED else (False,), ways):
        observer.trace(Circumstances(other_mode, grad, autocast, inference))
        if len(observer.opaque) != known or observer.blamed:
            return {}, set()
        comparison = Comparison(first, observer.frame, {})
        expected: set[Node] = set()
        if other_mode:
            followers = expected = comparison.followers if followers is None else followers
        found = comparison.modules or ([""] if comparison.followers != expected else [])
        if found and Hazard.MODE in OBSERVED:
            return dict.fromkeys(found, Hazard.MODE.value), set()
    found = _compare_arguments(observer, first, graph) if Hazard.NONE in OBSERVED else []
    return dict.fromkeys(found, Hazard.NONE.value), followers or set()


def _compare_arguments(observer: Observer, first: Frame, graph: Graph) -> list[str]:
    """Trace with arguments left out or None; return the modules in which another graph came out."""
    for given in _calls(graph):
        try:
            observer.trace(Circumstances(), given, steadfast=True)
        except TraceError:
            return [""]
        except (TypeError, AttributeError, ValueError, AssertionError, LookupError):
            continue  # the model takes no such call either
        except HazardError as error:
            if error.hazard in OBSERVED:
                return [""]
            continue
        values = {node: given[str(node.target)] for node in graph.nodes if str(node.target) in given}
        if found := Comparison(first, observer.frame, values).modules:
            return found
    return []


def _calls(graph: Graph) -> Iterator[dict[str, Any]]:
    """Yield the calls that may be made: each optional argument given or left out, each flag true or false.

    Also each required argument as None; all others then have their defaults.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    optional = {str(node.target): node.args[0] for node in placeholders if node.args}
    domains = {name: (True, False) if isinstance(value, bool) else (value, _GIVEN) for name, value in optional.items()}
    if prod(map(len, domains.values())) > _MOST_CALLS:
        # too many together: each one alone, and all that may be
        singles = [{name: value} for name, domain in domains.items() for value in domain]
        combinations: Iterable[dict[str, Any]] = [*singles, optional]
    else:
        combinations = (dict(zip(domains, values, strict=True)) for values in product(*domains.values()))
    for combination in combinations:
        yield {name: value for name, value in combination.items() if value is not _GIVEN}
    for node in placeholders:
        if not node.args:
            yield {**optional, str(node.target): None}


def as_graph_module(model: nn.Module, traced: Traced, recompile: bool = True) -> GraphModule:
    """Return a graph module that holds everything that ``model`` holds, around its graph."""
    for node in traced.graph.nodes:
        # annotations that torch.fx cannot write into the code of a pickled graph: texts, and unions by "|"
        if isinstance(node.type, (str, UnionType)):
            node.type = None
    # made around an empty graph: code for the traced one is only generated where it is run
    graph_module = WholeGraphModule(model, Graph(), type(model).__name__)
    set_graph(graph_module, traced.graph)
    held = {name: value for name, value in model.__dict__.items() if isinstance(value, Tensor)}
    for node in traced.graph.nodes:
        value = {**held, **traced.constants}.get(str(node.target)) if node.op == "get_attr" else None
        if value is None:
            continue
        if value.is_floating_point():
            # no buffer, which `graph_module.half()` would convert, and with it what it is added to
            graph_module.__dict__[str(node.target)] = value
        else:
            graph_module.register_buffer(str(node.target), value, persistent=False)
    for node in (node for node in traced.graph.nodes if node in traced.followers):
        _follow_mode(graph_module, node)
    graph_module.meta["opaque"] = traced.opaque
    if recompile:
        graph_module.recompile()
    return graph_module


def _follow_mode(graph_module: GraphModule, node: Node) -> None:
    """Let a module of the graph module do what a call of dropout does, which was told the mode once and for all."""
    name = next(name for name in map("dropout_{}".format, count()) if not has_attribute(graph_module, name))
    dropout = DROPOUTS[node.target](node.kwargs["p"], node.kwargs["inplace"])
    children_of(graph_module)[name] = dropout.train(bool(node.kwargs["training"]))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args or (node.kwargs["input"],))[:1], {}


def _name(model: Any) -> str:
    return type(model).__name__
