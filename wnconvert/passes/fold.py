"""Evaluate computed weights back into plain ones."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from wnconvert.graph.constants import Evaluator, ImpureError, is_mode_flag
from wnconvert.graph.entries import Entries, Entry, locate
from wnconvert.graph.writes import Writes
from wnconvert.passes.base import ReportingPass
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.torch_private import ATEN_ASSERT_METADATA, OpOverload, children_of, is_erased
from wnconvert.weights import expansion, fetches, loading
from wnconvert.weights.expressions import Source, sources
from wnconvert.weights.placement import Placement
from wnconvert.weights.sites import Expression, find
from wnconvert.weights.splitting import normal_tensors


class FoldPass(ReportingPass):
    """Replace each weight that a graph computes from parameters alone by its value.

    Any pure, parameter-only subgraph that ends in a weighted op is folded, whoever made it; the value has the bits
    that the graph's own forward computes in evaluation mode. Subgraphs that draw random numbers or change a buffer are
    left alone. Where the op was a call of a module before `ApplyPass`, it is one again. The graph module is changed
    in place.

    Args:
        selection: which weights to fold.

    Attributes:
        report: what the last call did, weight by weight.
    """

    def __init__(self, *, selection: Selection | None = None) -> None:
        super().__init__(selection)

    def _run(self, graph_module: GraphModule) -> Report:
        return _Folding(graph_module, self.selection, self.elsewhere).run()

    def _promised(self, entry: Converted) -> Iterable[str]:
        return (entry.fqn,)


@dataclass
class _Folded:
    """A weight expression with its value, on its way to become a plain weight.

    Attributes:
        expression: where it is, and which ops it enters.
        source: what it is computed from.
        value: its value.
        updates: calls that read it and go with it: updates of its state, assertions of export about its dtypes, and
            other results of an op, such as the statistics of a batch norm, that nothing reads.
        fetch: the node that fetches the plain weight.
    """

    expression: Expression
    source: Source
    value: Tensor
    updates: list[Node]
    fetch: Node | None = None


class _Folding:
    """One run of the pass."""

    def __init__(self, graph_module: GraphModule, selection: Selection, elsewhere: Set[str]) -> None:
        self.graph_module = graph_module
        self.graph = graph_module.graph
        self.selection = selection
        self.elsewhere = elsewhere
        self.entries = Entries(graph_module)
        self.evaluator = Evaluator(graph_module)
        self.writes = Writes(graph_module)
        self.skipped: list[Skipped] = []
        self.unread = _unread(self.graph)

    @normal_tensors()
    def run(self) -> Report:
        found = find(self.graph_module, self.entries).without(self.elsewhere)
        by_root, shared = sources(expression.root for expression in found.expressions)
        folded = [
            item
            for expression in found.expressions
            if by_root[expression.root].label not in self.elsewhere
            and (item := self._evaluate(expression, by_root[expression.root], shared))
        ]
        for weight in found.weights:
            info = weight.info
            self.skipped.append(Skipped(info.fqn, ", ".join(info.ops), Why.ALREADY_PLAIN()))
        self.skipped += [_unfolded(other) for other in found.others]
        for item in folded:
            self._rewire(item)
        return Report(tuple(self._install(folded)), tuple(self.skipped))

    def _evaluate(self, expression: Expression, source: Source, shared: set[Node]) -> _Folded | None:
        """Compute the weight, or note why it is skipped."""
        ops = tuple(dict.fromkeys(site.op for site in expression.sites))
        tensors = [self.entries.tensors.get(str(leaf.target)) for leaf in source.leaves]
        largest = max((t for t in tensors if t is not None), key=Tensor.numel, default=torch.empty(0))
        name, *others = source.names
        info = WeightedOp(name, ops, tuple(largest.shape), largest.dtype, aliases=tuple(others))
        reason = (
            self.selection.reason_against(info)
            or self._no_tensors(source)
            or self.writes.reason_against(expression.root)
        )
        if reason is None:
            updates = [call for node in source.nodes for call in self.writes.updates(node)]
            updates += [user for node in source.nodes for user in node.users if _goes_with(user)]
            updates += self._unread_with(source)
            try:
                value = self.evaluator.value(expression.root, source.nodes, shared)
                return _Folded(expression, source, value, updates)
            except ImpureError as error:
                reason = error.reason
            except Exception as error:  # noqa: BLE001 - an expression is the model's own code
                reason = Why.FAILS(error=f"{type(error).__name__}: {error}")
        self.skipped.append(Skipped(source.label, ", ".join(ops), reason, source.keys))
        return None

    def _unread_with(self, source: Source) -> list[Node]:
        """Return the calls that read what an expression does and that nothing reads, each after those that read it."""
        found: set[Node] = set()
        pending = list(source.leaves)
        while pending:
            new = self.unread.keys() & pending.pop().users.keys() - found
            found |= new
            pending += new
        return sorted(found, key=self.unread.__getitem__)

    def _no_tensors(self, source: Source) -> Reason | None:
        """Return why an expression is not computed from parameters and buffers alone, or None."""
        for leaf in (*source.leaves, *(node for node in source.nodes if node.op == "get_attr")):
            if str(leaf.target) not in self.entries.tensors:
                return Why.NOT_COMPUTED(source=str(leaf.target), what="is no parameter or buffer")
            if any(isinstance(owner.module, torch.jit.ScriptModule) for owner in self._owners(leaf)):
                return Why.NOT_COMPUTED(source=str(leaf.target), what="belongs to a TorchScript module")
        return None

    def _owners(self, leaf: Node) -> list[Entry]:
        return self.entries.owners(self.entries.tensors[str(leaf.target)])

    def _rewire(self, item: _Folded) -> None:
        """Let everything that reads the expression read the folded weight, and erase what nothing reads any more."""
        root = item.expression.root
        collapsed = self._collapse(item, root, self._holders(item.source))
        inputs = root.all_input_nodes
        if root.users:
            # the node itself becomes the fetch, so that it keeps its name, which ApplyPass took from a fetch
            root.op, root.target, root.args, root.kwargs = "get_attr", item.source.label, (), {}
            item.fetch = root
            if collapsed:
                # it stands where a module is called, which has its weight without a fetch
                min(root.users).prepend(root)
        else:
            inputs = [root]
        for update in item.updates:
            if not is_erased(update):
                read = update.all_input_nodes
                self.graph.erase_node(update)
                expansion.erase_unused(read)
        flags = [str(node.target) for node in item.source.nodes if node.op == "call_module"]
        expansion.erase_unused(inputs)
        for flag in flags:
            path, _, name = flag.rpartition(".")
            if is_mode_flag(locate(self.graph_module, flag)):
                del children_of(self.graph_module.get_submodule(path))[name]

    def _holders(self, source: Source) -> list[Entry]:
        """Return the modules that hold the parts of their ``weight``, and so may be called again."""
        if source.scheme is None or source.stem is None or locate(self.graph_module, source.stem) is not None:
            return []
        suffix = f"_{source.scheme.direction}"
        owners = self.entries.owners(self.entries.tensors[source.stem + suffix])
        return [owner for owner in owners if owner.name == expansion.WEIGHT + suffix]

    @staticmethod
    def _collapse(item: _Folded, weight: Node, holders: list[Entry]) -> bool:
        """Call modules as modules again where the folded weight is theirs; return whether there were any."""
        collapsed = False
        for site in item.expression.sites:
            # of the modules that hold a tied weight, first the one that the op is named after
            named_first = sorted(holders, key=lambda holder: holder.path.replace(".", "_") != site.node.name)
            collapsed |= any(expansion.collapse(site.node, each.path, each.module, weight) for each in named_first)
        return collapsed

    def _install(self, folded: list[_Folded]) -> list[Converted]:
        """Register the values in the place of their parts, and call modules as modules again."""
        placement = Placement(self.graph_module, self.entries, {item.fetch for item in folded})
        for item in folded:
            placement.put(item.source, item.value)
        for item in folded:
            placement.drop_unread(item.source)
        placement.commit()
        loading.forget_folded(self.graph_module)
        converted = [self._finish(item, placement.places(item.source)) for item in folded]
        fetches.restore(self.graph, [item.fetch for item in folded if item.fetch and not is_erased(item.fetch)])
        return converted

    def _finish(self, item: _Folded, places: list[Entry]) -> Converted:
        fqn = places[0].fqn
        if item.fetch is not None and not is_erased(item.fetch):
            item.fetch.target = fqn
            self._collapse(item, item.fetch, [place for place in places if place.name == expansion.WEIGHT])
            if not is_erased(item.fetch) and expansion.name_after_target(item.fetch):
                min(item.fetch.users).prepend(item.fetch)
        op = ", ".join(dict.fromkeys(site.op for site in item.expression.sites))
        scheme = item.source.scheme.name if item.source.scheme else "expression"
        return Converted(fqn, op, scheme, item.source.keys, plain=True)


def _goes_with(user: Node) -> bool:
    """Return whether a call says nothing any more once what it reads is folded."""
    return user.target is ATEN_ASSERT_METADATA or (user.target is operator.getitem and not user.users)


def _unread(graph: Graph) -> dict[Node, int]:
    """Return the ATen ops that do nothing, and whose results nothing reads, each after those that read it.

    torch.export writes down each time that a forward, or a check of it, read a computed weight; those of an LSTM do so
    several times.
    """
    found: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        if isinstance(node.target, OpOverload) and all(user in found for user in node.users) and not node.is_impure():
            found[node] = len(found)
    return found


def _unfolded(other: Skipped) -> Skipped:
    """Return what is said of a weight that is no node's: that its module computes it is not the wanted state here."""
    return replace(other, reason=Why.OUTSIDE_GRAPH()) if other.already else other
