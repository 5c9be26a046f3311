"""The two conversions on models, and the list of what they can convert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule

from wnconvert.errors import NothingToConvertError, TracingError
from wnconvert.graph import expansion
from wnconvert.graph.entries import Entries
from wnconvert.graph.sites import find
from wnconvert.graph.tracing import clone, export, trace
from wnconvert.modules.computed import is_part
from wnconvert.modules.foreign import fold_foreign
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.modules.subclasses import fold_subclasses
from wnconvert.modules.weights import live_weights
from wnconvert.modules.wrappers import fold_wrappers
from wnconvert.passes.apply import DEFAULT, ApplyPass
from wnconvert.passes.fold import FoldPass
from wnconvert.report import Report, Skipped
from wnconvert.scheme import Scheme
from wnconvert.selection import Dim, Selection, WeightedOp


@dataclass(frozen=True)
class Conversion:
    """A converted model and what was done to it; unpacks as ``(model, report)``."""

    model: nn.Module
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
    example_inputs: tuple[Any, ...] | None = None,
) -> Conversion:
    """Give each chosen weight of ``model`` a scheme, in a graph of the whole model where torch.fx can trace one.

    With a function-preserving scheme every composed weight, and so every output, is bit-identical: that is compared
    before a weight is replaced, and a weight for which it fails is skipped with the reason. The result is a plain
    `torch.fx.GraphModule` of plain torch functions; to load and run it, wnconvert is not needed. Modules that the graph
    cannot look into, and models without a graph, are converted in place: they stay what they are, with weights that are
    composed when they are read. The report says which way each weight took; its keys are the same either way.

    Args:
        model: any module; a GraphModule (also one from `torch.export`) is taken as the graph.
        scheme: a scheme such as ``WeightNorm(p=1)``, or the name of one, taken with its default options.
        dim: the kept dim. A number, None or -1 as in `torch.nn.utils.weight_norm` (the last two mean the whole
            tensor), ``"output"`` for the dim that indexes output channels, or the scheme's own default.
        selection: which weights; all by default.
        inplace: use the modules and tensors of ``model`` itself instead of copies. A GraphModule is then changed in
            place; of any other model only the result is of use afterwards.
        example_inputs: positional arguments of a call. With them, a model that torch.fx cannot trace is exported by
            `torch.export`; the graph holds for their sizes. Without, it is converted in place, module by module.

    Returns:
        the converted model and the report, which unpack as ``(model, report)``.

    Raises:
        NothingToConvertError: no weight was converted, and none already was.
        UnknownNameError: no scheme has that name.
    """
    pass_ = ApplyPass(scheme, dim=dim, selection=selection)
    return _require_any(_apply_patiently(model if inplace else clone(model), pass_, example_inputs))


def fold(
    model: nn.Module,
    *,
    selection: Selection | None = None,
    inplace: bool = False,
    example_inputs: tuple[Any, ...] | None = None,
) -> Conversion:
    """Replace each computed weight of ``model`` by its value.

    First come torch's hooks and parametrizations of every kind, and what `apply` did in place; then any pure subgraph
    of parameters that ends in a weighted op, whoever wrote it. The values have the bits that the model's own forward
    computes in evaluation mode. If no graph was needed, the result is a model of the same class.

    Args:
        model: any module.
        selection: which weights; all by default.
        inplace: as in `apply`.
        example_inputs: as in `apply`.

    Returns:
        the folded model and the report, which unpack as ``(model, report)``.

    Raises:
        NothingToConvertError: the model has no weighted op.
    """
    work = model if inplace else clone(model)
    return _require_any(_fold_patiently(work, selection or Selection(), example_inputs))


def find_weighted_ops(model: nn.Module) -> list[WeightedOp]:
    """Return the plain weights of ``model`` that enter weighted ops, in the order of their use; nothing is changed.

    What no graph shows is told by the classes of torch's modules.
    """
    try:
        graph_module = trace(model, recompile=False)
    except TracingError:
        return [weight.info for weight in live_weights(Entries(model)) if weight.role]
    entries = Entries(graph_module)
    seen = {id(weight.tensor): weight.info for weight in find(graph_module, entries).weights}
    for weight in live_weights(entries, _opaque_paths(graph_module)):
        if weight.role:
            seen.setdefault(id(weight.tensor), weight.info)
    return list(seen.values())


def _graph_of(work: nn.Module, example_inputs: tuple[Any, ...] | None) -> GraphModule:
    try:
        return trace(work, recompile=False)
    except TracingError:
        if example_inputs is None:
            raise
        return export(work, example_inputs)


def _apply_patiently(work: nn.Module, pass_: ApplyPass, example_inputs: tuple[Any, ...] | None) -> Conversion:
    """Apply to the graph of the whole model where there is one, and in place to what it does not look into."""
    try:
        graph_module = _graph_of(work, example_inputs)
    except TracingError as error:
        report = apply_in_place(work, pass_.scheme, pass_.dim, pass_.selection)
        return Conversion(work, replace(report, notes=(f"converted in place: {error}",)))
    result = pass_.call(graph_module)
    if not result.modified:
        graph_module.recompile()
    report = result.report
    opaque = _opaque_paths(graph_module)
    if opaque:
        report = _merged(report, apply_in_place(graph_module, pass_.scheme, pass_.dim, pass_.selection, opaque))
    report += _unnamed(graph_module, report, "no weighted op of the graph reads it")
    return Conversion(graph_module, replace(report, notes=_notes(graph_module)))


def _fold_patiently(work: nn.Module, selection: Selection, example_inputs: tuple[Any, ...] | None) -> Conversion:
    """Fold live modules first; a graph is only needed for what is computed inside a forward."""
    report = fold_in_place(work, selection) + fold_foreign(work, selection)
    work, unwrapped = fold_wrappers(work, selection)
    report += unwrapped
    try:
        graph_module = _graph_of(work, example_inputs)
    except TracingError as error:
        report += fold_subclasses(work, selection)
        report += _unnamed(work, report, "already a plain weight", already=True)
        return Conversion(work, replace(report, notes=(f"folded in place: {error}",)))
    result = FoldPass(selection=selection).call(graph_module)
    report = _merged(result.report, report)
    if not result.modified:
        return Conversion(work, report)
    return Conversion(graph_module, replace(report, notes=_notes(graph_module)))


def _opaque_paths(graph_module: GraphModule) -> set[str]:
    """Return the names of the modules that the graph calls and that are not single weighted ops."""
    paths = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    modules = {path: graph_module.get_submodule(path) for path in paths}
    return {
        path
        for path, module in modules.items()
        if expansion.rule_of_module(module) is None and next(module.parameters(), None) is not None
    }


def _merged(report: Report, closer: Report) -> Report:
    """Return both reports as one; of a weight that both skip, what the closer look says counts."""
    seen = {entry.fqn for entry in closer.converted} | {entry.fqn for entry in closer.skipped}
    kept = tuple(entry for entry in report.skipped if entry.fqn not in seen)
    return Report(report.converted + closer.converted, kept + closer.skipped)


def _unnamed(model: nn.Module, report: Report, reason: str, already: bool = False) -> Report:
    """Report as skipped the parameters of ``model`` that may be weights and that ``report`` does not name."""
    # a computed weight is named after the stem of its parts, or after all that it is computed from
    labels = [entry.fqn for entry in report.converted] + [entry.fqn for entry in report.skipped]
    named = {name for label in labels for name in label.split(", ")}
    named.update(key for entry in report.converted for key in entry.keys)
    stems = tuple(f"{entry.fqn}_" for entry in report.skipped if entry.already)
    entries, rest = Entries(model), {}
    for fqn, tensor in entries:
        if fqn in named or not isinstance(tensor, nn.Parameter) or tensor.dim() < 2 or not tensor.is_floating_point():
            continue
        owners = entries.owners(tensor)
        if not any(owner.fqn in named or owner.fqn.startswith(stems) or is_part(owner) for owner in owners):
            rest[id(tensor)] = Skipped(owners[0].fqn, "", reason, already)
    return Report(skipped=tuple(rest.values()))


def _notes(graph_module: GraphModule) -> tuple[str, ...]:
    """Say what a graph has fixed that the model decides anew in each forward."""
    decided = [node for node in graph_module.graph.nodes if isinstance(node.kwargs.get("training"), bool)]
    # without running statistics, batch_norm standardizes a weight, the same way in either mode
    fixed = [node for node in decided if node.target is not F.batch_norm or node.args[1:2] != (None,)]
    if not fixed:
        return ()
    mode = "training" if fixed[0].kwargs["training"] else "evaluation"
    names = ", ".join(dict.fromkeys(getattr(node.target, "__name__", str(node.target)) for node in fixed))
    return (f"the graph is fixed in {mode} mode at {len(fixed)} calls of {names}",)


def _require_any(conversion: Conversion) -> Conversion:
    report = conversion.report
    if report.converted or any(entry.already for entry in report.skipped):
        return conversion
    reasons = "; ".join(dict.fromkeys(f"{entry.fqn}: {entry.reason}" for entry in report.skipped[:3]))
    raise NothingToConvertError(f"nothing to convert: {reasons or 'the model has no weighted op'}")
