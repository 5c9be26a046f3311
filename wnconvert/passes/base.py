"""What both passes have in common: their result, what they need of a graph module, and what holds of it afterwards.

`PassBase.__call__`, and so torch.fx's `PassManager`, asks `requires` before and `ensures` after a pass. The manager
wraps whatever is raised in a bare ``Exception``, whose ``__cause__`` is the error of this package.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Set
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from wnconvert.errors import KindError, VerificationError
from wnconvert.graph.calls import is_permutation
from wnconvert.graph.entries import has_attribute, locate
from wnconvert.report import Converted, Report
from wnconvert.selection import Selection
from wnconvert.weights import ops


class ReportingPassResult(PassResult):
    """A `PassResult` that carries the report; it unpacks as ``(graph_module, modified)``.

    `PassManager` drops all but these two, so each pass also keeps its last report as ``pass_.report``.
    """

    report: Report

    def __new__(cls, graph_module: GraphModule, modified: bool, report: Report) -> ReportingPassResult:
        """Return ``(graph_module, modified)`` with the report attached."""
        result: Any = super().__new__(cls, graph_module, modified)
        result.report = report
        return result


class ReportingPass(PassBase):
    """A pass that changes the weights of a graph module in place, and reports weight by weight.

    Attributes:
        selection: which weights.
        elsewhere: dotted names of weights that whoever calls the pass accounts for; it leaves them alone, and out of
            the report.
        report: what the last call did.
    """

    def __init__(self, selection: Selection | None) -> None:
        self.selection = selection or Selection()
        self.elsewhere: Set[str] = frozenset()
        self.report = Report()

    def call(self, graph_module: GraphModule) -> ReportingPassResult:
        """Change ``graph_module`` in place and return ``(graph_module, modified)`` with the report."""
        self.report = self._run(graph_module)
        if self.report.modified:
            graph_module.recompile()
        return ReportingPassResult(graph_module, self.report.modified, self.report)

    def requires(self, graph_module: GraphModule) -> None:
        """Check that it is a graph module, whole, and that its weights are its own and not inputs.

        Raises:
            KindError: it is not.
        """
        if not isinstance(graph_module, GraphModule):
            raise KindError(
                f"a {type(graph_module).__name__} is no torch.fx.GraphModule; trace it with wnconvert.trace, or give "
                "it to wnconvert.apply or wnconvert.fold as it is"
            )
        if fault := _fault_of(graph_module):
            raise KindError(f"the graph was broken before the pass: {fault}")
        if (node := _lifted(graph_module)) is not None:
            raise KindError(
                f"node {node.name!r} takes its weight from an input of the graph, which holds no tensor, as that of an "
                "ExportedProgram; convert program.module(), which holds them"
            )

    def ensures(self, graph_module: GraphModule) -> None:
        """Check that the graph is whole, and that the module holds every tensor which the report says that it got.

        Raises:
            VerificationError: it does not.
        """
        names = (name for entry in self.report.converted for name in self._promised(entry))
        missing = next((name for name in names if not isinstance(locate(graph_module, name), Tensor)), None)
        if missing is not None:
            raise VerificationError(f"the pass lost {missing!r}; please report it, with the model")
        if fault := _fault_of(graph_module):
            raise VerificationError(f"the pass broke the graph: {fault}; please report it, with the model")

    @abstractmethod
    def _run(self, graph_module: GraphModule) -> Report:
        """Change the graph module, without its code."""

    @abstractmethod
    def _promised(self, entry: Converted) -> Iterable[str]:
        """Return the dotted names of the tensors that a converted weight has afterwards."""


def _fault_of(graph_module: GraphModule) -> str | None:
    """Return what is broken in a graph: what `Graph.lint` looks at, in a tenth of its time and without its warnings."""
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    seen: set[Node] = set()
    for node in graph_module.graph.nodes:
        if not seen.issuperset(node.all_input_nodes):
            return f"node {node.name!r} reads a node that comes after it"
        seen.add(node)
        if node.op in ("get_attr", "call_module") and node.target not in modules:
            path, _, name = str(node.target).rpartition(".")
            holder = modules[path] if path in modules else locate(graph_module, path)
            if not (has_attribute(holder, name) if isinstance(holder, nn.Module) else hasattr(holder, name)):
                return f"node {node.name!r} names {node.target!r}, which the module does not have"
    return None


def _lifted(graph_module: GraphModule) -> Node | None:
    """Return a layer whose weight is an input of a graph that holds no tensors at all, if there is one."""
    if any(True for _ in graph_module.parameters()) or any(True for _ in graph_module.buffers()):
        return None
    rules = ops.known_rules()
    for node in graph_module.graph.nodes:
        rule = rules.of(node)
        for operand in rule.operands(node) if rule is not None and rule.is_layer else ():
            weight = operand.node
            while is_permutation(weight):
                weight = weight.args[0]  # type: ignore[assignment]
            if weight.op == "placeholder":
                return node
    return None
