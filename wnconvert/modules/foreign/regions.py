"""Fold the weights that a module computes in its own forward, such as ``normalize(self.weight)``.

Such a weight can only be folded in a graph. So the smallest module whose forward computes it becomes one, with all the
modules that it calls as they are, and nothing else of the model changes. If that graph is just what a class of torch
does (timm's ``StdConv2d`` is a convolution then), the module gets that class instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.fx import GraphModule

from wnconvert.errors import CopyError, TracingError
from wnconvert.graph.copying import clone
from wnconvert.graph.entries import Entries, join
from wnconvert.modules.inplace import HOW
from wnconvert.modules.wrapped import reasons_against_fold
from wnconvert.passes.fold import FoldPass
from wnconvert.reasons import Reason, Why
from wnconvert.report import Report, Skipped
from wnconvert.selection import Selection, WeightedOp
from wnconvert.torch_private import BUFFERS, PARAMETERS, children_of, parameters_of
from wnconvert.tracing.shadow import is_leaf
from wnconvert.tracing.tracing import find_graph, trace_leaves
from wnconvert.weights import expansion
from wnconvert.weights.sites import Found, find


def fold_regions(model: nn.Module, selection: Selection) -> tuple[nn.Module, Report]:
    """Fold what the modules of ``model`` compute in their own forwards from parameters alone.

    Returns:
        the model, or its graph if its own forward computes a weight, and the report.
    """
    report, graphs = Report(), dict[int, nn.Module]()
    held = reasons_against_fold(model)
    for path, module in reversed(list(model.named_modules())):
        if id(module) in held:
            continue
        if isinstance(module, GraphModule):
            result = FoldPass(selection=_Below.of(selection, path)).call(module)
            report = _named_below(path, result.report) + report
        elif _may_compute(module) and (found := _computed_in(module)):
            replaced, own = _fold_one(module, found, _Below.of(selection, path))
            report = _named_below(path, own) + report
            if replaced is not module:
                graphs[id(module)] = replaced
                _put(model, module, replaced)
    return graphs.get(id(model), model), report


def computes_weights(module: nn.Module) -> bool:
    """Return whether the forward of a module itself computes a weight from parameters, as far as that can be seen."""
    return _may_compute(module) and _computed_in(module) is not None


def _may_compute(module: nn.Module) -> bool:
    """Return False for a module whose own forward is known to compute no weight, without tracing it."""
    calls_its_children = type(module) is nn.Sequential and "forward" not in module.__dict__
    return not calls_its_children and not is_leaf(type(module))


def _computed_in(module: nn.Module) -> Found | None:
    """Return what a forward computes from parameters, or None if it does no such thing or shows nothing."""
    try:
        graph = find_graph(module, leaves=True).graph
    except TracingError:
        return None
    found = find(module, Entries(module), graph)
    return found if found.expressions else None


def _fold_one(module: nn.Module, found: Found, selection: Selection) -> tuple[nn.Module, Report]:
    """Fold one module; return what is to stand in its place."""
    try:
        graph_module = trace_leaves(module)
        adds_keys = _adds_keys(module, selection)
    except (TracingError, CopyError) as error:
        return module, Report(skipped=tuple(_skipped(found, Why.NO_GRAPH(refusal=error))))
    if adds_keys:
        return module, Report(skipped=tuple(_skipped(found, Why.ADDS_KEY())))
    report = FoldPass(selection=selection).call(graph_module).report
    # what is no computed weight is not this function's business
    report = replace(report, skipped=tuple(entry for entry in report.skipped if not entry.already))
    if not report.converted:
        return module, report
    plain_class = _class_of(module, graph_module)
    if plain_class is None:
        return graph_module, report
    for contents in (PARAMETERS, BUFFERS):
        module.__dict__[contents] = getattr(graph_module, contents)
    module.__class__ = plain_class
    return module, replace(report, converted=tuple(replace(entry, how=HOW) for entry in report.converted))


def _adds_keys(module: nn.Module, selection: Selection) -> bool:
    """Whether a folded copy of a module has more tensors than the module, which no plain model would load."""
    trial = trace_leaves(clone(module))
    FoldPass(selection=selection).call(trial)
    # parts that give way to their weight are more keys than the one that it gets
    return len(trial.state_dict()) > len(module.state_dict())


def _skipped(found: Found, reason: Reason) -> Iterator[Skipped]:
    computed = {entry.fqn: entry for entry in found.computed("in the forward")}
    return (replace(entry, reason=reason) for entry in computed.values())


def _class_of(module: nn.Module, graph_module: GraphModule) -> Any:
    """Return the class of torch whose forward the graph is, if it is one that the module derives from."""
    base = next((each for each in type(module).__mro__ if each in expansion.MODULES), None)
    if base is None:
        return None
    plain: nn.Module = object.__new__(base)
    plain.__dict__.update(module.__dict__)
    plain.__dict__[PARAMETERS] = parameters_of(graph_module)
    return base if expansion.is_forward_of(plain, graph_module.graph) else None


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        children = children_of(parent)
        for name, child in children.items():
            if child is old:
                children[name] = new


def _named_below(path: str, report: Report) -> Report:
    """Return the report of a part of the model with the names that things have in the model."""
    converted = tuple(
        replace(entry, fqn=join(path, entry.fqn), keys=tuple(join(path, key) for key in entry.keys))
        for entry in report.converted
    )
    skipped = []
    for entry in report.skipped:
        keys = tuple(join(path, key) for key in entry.keys)
        unnamed = entry.fqn == ", ".join(entry.keys)
        skipped.append(replace(entry, fqn=", ".join(keys) if unnamed else join(path, entry.fqn), keys=keys))
    return replace(report, converted=converted, skipped=tuple(skipped))


@dataclass(frozen=True)
class _Below(Selection):
    """A choice among the weights of the whole model, asked about those of one module.

    Attributes:
        path: dotted name of the module.
        whole: the choice.
    """

    path: str = ""
    whole: Selection = field(default_factory=Selection)

    @classmethod
    def of(cls, whole: Selection, path: str) -> Selection:
        """Return ``whole``, for the module ``path``."""
        return cls(path=path, whole=whole) if path else whole

    def reason_against(self, weight: WeightedOp) -> Reason | None:
        """Ask under the weight's full name."""
        aliases = tuple(join(self.path, alias) for alias in weight.aliases)
        return self.whole.reason_against(replace(weight, fqn=join(self.path, weight.fqn), aliases=aliases))
