"""Find the weights of a traced model: which tensor enters which weighted op, and who else reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from wnconvert.fitness import reason_against_layer, reason_against_lookup
from wnconvert.graph.calls import is_detached, is_permutation, is_section, is_view, named_argument, permutation_of
from wnconvert.graph.constants import ancestors, constant_nodes
from wnconvert.graph.entries import Entries, Entry, join
from wnconvert.graph.writes import may_be, written_by
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.selection import WeightedOp
from wnconvert.torch_private import buffers_of, parameters_of
from wnconvert.weights import expansion, ops
from wnconvert.weights.expressions import sources


@dataclass
class Site:
    """One weight entering one weighted op.

    Attributes:
        node: the op.
        op: its name.
        module: the module that a call_module node calls, None for a function or method.
        output_dims: the weight's dims that index output channels.
    """

    node: Node
    op: str
    module: nn.Module | None = None
    output_dims: tuple[int, ...] | None = None


@dataclass
class Weight:
    """A parameter that enters weighted ops, with everything in the graph that reads it.

    Attributes:
        tensor: the parameter.
        owners: the places that hold it, more than one if it is tied.
        sites: the weighted ops that it enters.
        reads: the get_attr nodes that fetch it.
        unfit: why it cannot be normalized in any way, if it cannot.
        hidden: why nodes cannot take its place, if they cannot.
    """

    tensor: Tensor
    owners: list[Entry]
    sites: list[Site] = field(default_factory=list)
    reads: list[Node] = field(default_factory=list)
    unfit: Reason | None = None
    hidden: Reason | None = None

    @property
    def obstacle(self) -> Reason | None:
        """Why it cannot be replaced by nodes, if it cannot."""
        return self.unfit or self.hidden

    @cached_property
    def info(self) -> WeightedOp:
        """The weight as a user sees it; asked for once all sites are known."""
        dims = {site.output_dims for site in self.sites}
        return WeightedOp(
            fqn=self.owners[0].fqn,
            ops=tuple(dict.fromkeys(site.op for site in self.sites)),
            shape=tuple(self.tensor.shape),
            dtype=self.tensor.dtype,
            output_dims=dims.pop() if len(dims) == 1 else None,
            aliases=tuple(entry.fqn for entry in self.owners[1:]),
        )


@dataclass
class Expression:
    """A weight that is computed from parameters alone: the node that yields it, and the ops that it enters."""

    root: Node
    sites: list[Site] = field(default_factory=list)


@dataclass
class Found:
    """All that a search found.

    Attributes:
        weights: plain parameters that enter weighted ops, in graph order.
        expressions: computed weights, in graph order.
        others: weights that are neither: held by a module that is opaque to the graph, or computed outside of it.
        read: ids of the tensors that the graph itself reads.
    """

    weights: list[Weight]
    expressions: list[Expression]
    others: list[Skipped]
    read: set[int]

    def computed(self, where: str) -> Iterator[Skipped]:
        """Yield the computed weights as skipped for that; ``where`` is for the reason."""
        by_root, _ = sources(expression.root for expression in self.expressions)
        for expression in self.expressions:
            source = by_root[expression.root]
            scheme = f" ({source.scheme.name})" if source.scheme else ""
            reason = Why.ALREADY_COMPUTED(how=f"computed {where}{scheme}")
            yield Skipped(source.label, expression.sites[0].op, reason, source.keys)

    def without(self, names: Set[str]) -> Found:
        """Return it without those plain weights, and those that are neither, that have one of these names."""
        return replace(
            self,
            weights=[each for each in self.weights if names.isdisjoint(owner.fqn for owner in each.owners)],
            others=[each for each in self.others if each.fqn not in names],
        )


def find(model: nn.Module, entries: Entries, graph: Graph | None = None) -> Found:
    """Find every weight that enters a weighted op.

    Args:
        model: a graph module, or any module whose ``graph`` is given.
        entries: the tensors of the model.
        graph: what to look at; the graph module's own by default.
    """
    return _Search(model, entries, model.graph if isinstance(model, GraphModule) and graph is None else graph).run()


class _Search:
    def __init__(self, model: nn.Module, entries: Entries, graph: Any) -> None:
        self.graph: Graph = graph
        self.entries = entries
        self.constants = constant_nodes(graph)
        self.rules = ops.known_rules()
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.weights: dict[int, Weight] = {}
        self.expressions: dict[Node, Expression] = {}
        self.viewed: dict[Node, Node] = {}
        self.others: dict[str, Skipped] = {}
        self.reads: dict[int, list[Node]] = {}
        self.opaque: dict[int, Reason] = {}
        self.writers = {base: node for node in graph.nodes for target in written_by(node) for base in may_be(target)}

    def run(self) -> Found:
        constant_calls: list[tuple[Node, ops.OpRule | None]] = []
        for node in self.graph.nodes:
            if node.op == "get_attr":
                tensor = self.entries.tensors.get(str(node.target))
                if tensor is not None:
                    self.reads.setdefault(id(tensor), []).append(node)
            elif node.op == "call_module":
                if node in self.constants:
                    constant_calls.append((node, None))
                else:
                    self._visit_module(node)
            elif node.op in ("call_function", "call_method") and (rule := self.rules.of(node)):
                if node in self.constants:
                    constant_calls.append((node, rule))
                else:
                    self._visit_call(node, rule)
        self._visit_constant_calls(constant_calls)
        for key, weight in self.weights.items():
            weight.reads = self.reads.get(key, [])
            weight.unfit = weight.unfit or self._updated_in_place(weight)
            weight.hidden = weight.hidden or self.opaque.get(key)
        if self.viewed:
            self._go_below_views()
        order = {node: index for index, node in enumerate(self.graph.nodes)}
        weights = sorted(self.weights.values(), key=lambda weight: order[weight.sites[0].node])
        return Found(
            weights, list(self.expressions.values()), list(self.others.values()), set(self.reads) - set(self.opaque)
        )

    def _visit_module(self, node: Node) -> None:
        path = str(node.target)
        module = self.modules[path]
        rule = expansion.rule_of_module(module)
        if rule is None:
            self._visit_opaque(path, module)
            return
        tensor = parameters_of(module).get(expansion.WEIGHT)
        if tensor is None:
            self.others[path] = Skipped(join(path, expansion.WEIGHT), rule.name, _why_no_parameter(module))
            return
        if is_lazy(tensor):
            self._note_uninitialized(join(path, expansion.WEIGHT), rule.name)
            return
        weight = self._weight(tensor)
        weight.sites.append(Site(node, rule.name, module, rule.output_dims(module, tuple(tensor.shape))))
        weight.unfit = weight.unfit or reason_against_layer(module)
        weight.hidden = weight.hidden or expansion.reason_against(module)

    def _visit_opaque(self, path: str, module: nn.Module) -> None:
        kind = type(module).__name__
        for name, tensor in module.named_parameters(prefix=path):
            self.opaque[id(tensor)] = Why.OPAQUE(read="it is also read inside", module=path, kind=kind)
            if not is_lazy(tensor) and tensor.dim() >= 2 and tensor.is_floating_point():
                self.others[name] = Skipped(name, "", Why.OPAQUE(read="inside", module=path, kind=kind))

    def _visit_generator(self, node: Node) -> None:
        """Note a module that a weight is computed by, as in a hypernetwork."""
        for fqn, tensor in self.modules[str(node.target)].named_parameters(prefix=str(node.target)):
            self.opaque[id(tensor)] = Why.FEEDS_WEIGHT()
            if not is_lazy(tensor) and tensor.dim() >= 2:
                self.others[fqn] = Skipped(fqn, "", Why.FEEDS_WEIGHT())

    def _visit_constant_calls(self, calls: list[tuple[Node, ops.OpRule | None]]) -> None:
        """Visit the calls that depend on no input, such as a network over fixed positions.

        Those that a weight is computed by are part of that weight. A product of parameters alone is no layer. Of the
        others, an operand that is itself computed is
        taken for what such a network passes on, and not for a weight, unless it is composed of the parts of a scheme.
        """
        inside: set[Node] = set()
        for root in self.expressions:
            inside.update(ancestors(root, inside))
        for node, rule in calls:
            if rule is None:
                self._visit_module(node) if node not in inside else self._visit_generator(node)
        outside = [
            (node, rule) for node, rule in calls if rule and node not in inside and not self._is_product(node, rule)
        ]
        known = set(self.expressions)
        for node, rule in outside:
            self._visit_call(node, rule)
        added = [root for root in self.expressions if root not in known]
        by_root, _ = sources(added)
        for root in added:
            if by_root[root].stem is None:
                del self.expressions[root]

    def _is_product(self, node: Node, rule: ops.OpRule) -> bool:
        tensors = [self.entries.tensors.get(str(operand.node.target)) for operand in rule.operands(node)]
        return len(tensors) > 1 and all(isinstance(tensor, nn.Parameter) for tensor in tensors)

    def _visit_call(self, node: Node, rule: ops.OpRule) -> None:
        for operand in rule.operands(node):
            if operand.node not in self.constants:
                continue
            base, permutations = _below(is_permutation, operand.node)
            source, views = _below(is_view, base)
            if source.op != "get_attr":
                self.expressions.setdefault(base, Expression(base)).sites.append(Site(node, rule.name))
                if views:
                    self.viewed[base] = source
                continue
            tensor = self.entries.tensors.get(str(source.target))
            if tensor is not None and is_lazy(tensor):
                self._note_uninitialized(str(source.target), rule.name)
            elif tensor is not None and tensor.dim() >= 1:
                self._add_site(node, rule.name, operand, tensor, permutations + views)

    def _note_uninitialized(self, fqn: str, op: str) -> None:
        self.others[fqn] = Skipped(fqn, op, Why.UNINITIALIZED())

    def _go_below_views(self) -> None:
        """Let what is shown in sections, or is composed of the parts of a scheme, be the weight, and not its views."""
        by_root, _ = sources(self.viewed.get(root, root) for root in self.expressions)
        found, self.expressions = self.expressions, {}
        for root, expression in found.items():
            source = self.viewed.get(root, root)
            views = _below(is_view, root)[1]
            stay = any(is_section(view) or is_detached(view) for view in views)
            weight = source if stay or by_root[source].stem else root
            self.expressions.setdefault(weight, Expression(weight)).sites += expression.sites

    def _add_site(self, node: Node, op: str, operand: ops.Operand, tensor: Tensor, views: list[Node]) -> None:
        order = list(range(tensor.dim()))
        for view in reversed(views):
            step = permutation_of(view, tensor.dim()) if is_permutation(view) else None
            order = [order[dim] for dim in step or ()] if len(order) == tensor.dim() else []
        shape = tuple(tensor.shape[dim] for dim in order)
        dims = operand.output_dims(node, shape) if len(shape) == tensor.dim() else None
        output_dims = None if dims is None else tuple(sorted(order[dim] for dim in dims))
        weight = self._weight(tensor)
        weight.sites.append(Site(node, op, None, output_dims))
        max_norm, sparse = named_argument(node, "max_norm"), bool(named_argument(node, "sparse"))
        weight.unfit = weight.unfit or reason_against_lookup(max_norm, sparse)

    def _weight(self, tensor: Tensor) -> Weight:
        return self.weights.setdefault(id(tensor), Weight(tensor, self.entries.owners(tensor)))

    def _updated_in_place(self, weight: Weight) -> Reason | None:
        writers = (self.writers.get(read) for read in self.reads.get(id(weight.tensor), ()))
        writer = next(filter(None, writers), None)
        return Why.CHANGED_IN_PLACE(who=f"node {writer.name!r}", what="it") if writer else None


def _below(is_link: Callable[[Node], bool], node: Node) -> tuple[Node, list[Node]]:
    """Return what stands below a chain of calls on their first arguments, and the chain, outermost first."""
    chain = []
    while is_link(node):
        chain.append(node)
        node = node.args[0]  # type: ignore[assignment]
    return node, chain


def _why_no_parameter(module: nn.Module) -> Reason:
    if parametrize.is_parametrized(module, expansion.WEIGHT):
        return Why.ALREADY_COMPUTED(how="parametrized by torch.nn.utils.parametrize")
    if buffers_of(module).get(expansion.WEIGHT) is not None:
        return Why.BUFFER()
    return Why.ALREADY_COMPUTED(how="computed by a hook of the module")
