"""The two conversions on models, and the list of what they can convert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import GraphModule

from wnconvert.errors import NothingToConvertError
from wnconvert.graph.entries import Entries
from wnconvert.graph.sites import find
from wnconvert.graph.tracing import clone, trace
from wnconvert.passes.apply import DEFAULT, ApplyPass
from wnconvert.passes.fold import FoldPass
from wnconvert.report import Report
from wnconvert.scheme import Scheme
from wnconvert.selection import Dim, Selection, WeightedOp


@dataclass(frozen=True)
class Conversion:
    """A converted model and what was done to it; unpacks as ``(model, report)``."""

    model: GraphModule
    report: Report

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.report))


def apply(
    model: nn.Module,
    scheme: str | Scheme = "weight_norm",
    *,
    dim: Dim | str = DEFAULT,
    selection: Selection | None = None,
    inplace: bool = False,
) -> Conversion:
    """Trace ``model`` and give each chosen weight a scheme.

    With a function-preserving scheme every composed weight, and so every output, is bit-identical: that is compared
    before a weight is replaced, and a weight for which it fails is skipped with the reason. The result is a plain
    `torch.fx.GraphModule` of plain torch functions; to load and run it, wnconvert is not needed.

    Args:
        model: a module that torch.fx can trace, or a GraphModule (also one from `torch.export`).
        scheme: a scheme such as ``WeightNorm(p=1)``, or the name of one, taken with its default options.
        dim: the kept dim. A number, None or -1 as in `torch.nn.utils.weight_norm` (the last two mean the whole
            tensor), ``"output"`` for the dim that indexes output channels, or the scheme's own default.
        selection: which weights; all by default.
        inplace: use the modules and tensors of ``model`` itself instead of copies. A GraphModule is then changed in
            place; of any other model only the result is of use afterwards.

    Returns:
        the converted model and the report, which unpack as ``(model, report)``.

    Raises:
        TracingError: torch.fx cannot trace the model.
        NothingToConvertError: no weight was converted, and none already was.
        UnknownNameError: no scheme has that name.
    """
    conversion = _run(ApplyPass(scheme, dim=dim, selection=selection), model, inplace)
    return _require_any(conversion)


def fold(model: nn.Module, *, selection: Selection | None = None, inplace: bool = False) -> Conversion:
    """Trace ``model`` and replace each computed weight by its value.

    Any pure subgraph of parameters that ends in a weighted op is folded, whoever wrote it. The values have the bits
    that the model's own forward computes in evaluation mode.

    Args:
        model: a module that torch.fx can trace, or a GraphModule (also one from `torch.export`).
        selection: which weights; all by default.
        inplace: as in `apply`.

    Returns:
        the folded model and the report, which unpack as ``(model, report)``.

    Raises:
        TracingError: torch.fx cannot trace the model.
        NothingToConvertError: the model has no weighted op.
    """
    return _require_any(_run(FoldPass(selection=selection), model, inplace))


def find_weighted_ops(model: nn.Module) -> list[WeightedOp]:
    """Return the plain weights of ``model`` that enter weighted ops, in the order of their use; nothing is changed.

    Raises:
        TracingError: torch.fx cannot trace the model.
    """
    graph_module = trace(model)
    return [weight.info for weight in find(graph_module, Entries(graph_module)).weights]


def _run(pass_: ApplyPass | FoldPass, model: nn.Module, inplace: bool) -> Conversion:
    graph_module = trace(model if inplace else clone(model))
    result = pass_.call(graph_module)
    return Conversion(graph_module, result.report)


def _require_any(conversion: Conversion) -> Conversion:
    report = conversion.report
    if report.converted or any(entry.already for entry in report.skipped):
        return conversion
    reasons = "; ".join(dict.fromkeys(f"{entry.fqn}: {entry.reason}" for entry in report.skipped[:3]))
    raise NothingToConvertError(f"nothing to convert: {reasons or 'the model has no weighted op'}")
