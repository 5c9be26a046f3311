"""Fold the weights that a subclass of a torch module computes in its own forward, such as timm's ``StdConv2d``.

Where no graph of the whole model is to be had, there may be one of the single module. If that, folded, is just what
torch's own class does, the module gets that class and the folded weight.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from wnconvert.errors import TracingError
from wnconvert.graph import expansion
from wnconvert.graph.entries import join
from wnconvert.graph.tracing import trace
from wnconvert.modules.inplace import HOW
from wnconvert.passes.fold import FoldPass
from wnconvert.report import Converted, Report, Skipped
from wnconvert.selection import Selection, WeightedOp


def fold_subclasses(model: nn.Module, selection: Selection) -> Report:
    """Fold each module whose class computes its weight from parameters alone and is otherwise like torch's own.

    Args:
        model: the model; it is changed.
        selection: which weights.
    """
    converted, skipped = [], []
    for path, module in list(model.named_modules()):
        base = next((each for each in type(module).__mro__ if each in expansion.MODULES), None)
        weight = module._parameters.get(expansion.WEIGHT)
        if base is None or weight is None or expansion.rule_of_module(module) is not None:
            continue
        fqn, op = join(path, expansion.WEIGHT), expansion.MODULES[base].name
        info = WeightedOp(fqn, (op,), tuple(weight.shape), weight.dtype)
        reason = selection.reason_against(info) or _fold_one(module, base)
        if reason is None:
            converted.append(Converted(fqn, op, "expression", (fqn,), how=HOW))
        else:
            skipped.append(Skipped(fqn, op, reason))
    return Report(tuple(converted), tuple(skipped))


def _fold_one(module: nn.Module, base: Any) -> str | None:
    """Fold one module, or return why it cannot be."""
    kind, name = type(module).__name__, base.__name__
    try:
        graph_module = trace(module)
    except TracingError as error:
        return f"its class {kind} cannot be traced: {error}"
    report = FoldPass().call(graph_module).report
    if not report.converted:
        return next((entry.reason for entry in report.skipped if entry.fqn == expansion.WEIGHT), "it is not computed")
    plain = object.__new__(base)
    plain.__dict__.update(module.__dict__)
    plain._parameters = graph_module._parameters
    if not expansion.is_forward_of(plain, graph_module.graph):
        return f"the forward of its class {kind} does more than that of {name}"
    module._parameters.clear()
    module._parameters.update(graph_module._parameters)
    module.__class__ = base
    return None
