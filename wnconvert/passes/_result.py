"""What our passes return."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from wnconvert.report import Report


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
