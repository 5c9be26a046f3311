"""The two conversions on models, and the list of what they can convert."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import FunctionType
from typing import Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy

from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.exported.applying import ProgramApplyPass
from wnconvert.exported.conversion import convert
from wnconvert.exported.fusing import fuse as fuse_program, nothing
from wnconvert.exported.holding import hold
from wnconvert.fusing.measuring import measure, require_near
from wnconvert.graph.copying import clone
from wnconvert.graph.entries import Entries
from wnconvert.modules.classes import compiled_weights, live_weights
from wnconvert.modules.computed import computed_below, is_part
from wnconvert.modules.finding import find_weights, with_remark
from wnconvert.modules.foreign.regions import fold_regions
from wnconvert.modules.foreign.reparametrized import fold_reparametrized
from wnconvert.modules.foreign.wrappers import fold_wrappers
from wnconvert.modules.fusing import fuse_in_place, note_shapes
from wnconvert.modules.inplace import HOW_OPAQUE, apply_in_place, fold_in_place
from wnconvert.modules.wrapped import make_ready, reason_against_apply, reason_against_fold, reason_against_fuse
from wnconvert.passes.apply import DEFAULT, ApplyPass
from wnconvert.passes.fold import FoldPass
from wnconvert.passes.fuse import FusePass
from wnconvert.reasons import Reason, Why
from wnconvert.report import Report, Skipped
from wnconvert.scheme import Scheme
from wnconvert.selection import Dim, Selection, WeightedOp
from wnconvert.tracing.comparing import require_same
from wnconvert.tracing.tracing import remarks_of, trace
from wnconvert.weights import expansion
from wnconvert.weights.sites import find

#: what a module is converted as
How = Literal["module", "graph"]


class Conversion(NamedTuple):
    """A converted model and what was done to it; unpacks and indexes as ``(model, report)``, and prints the report."""

    model: nn.Module
    report: Report

    def __str__(self) -> str:
        return f"{type(self.model).__name__}: {self.report}"


class ConvertedProgram(NamedTuple):
    """A converted program and what was done to it; unpacks as ``(program, report)``, and prints the report."""

    program: ExportedProgram
    report: Report

    def __str__(self) -> str:
        return f"ExportedProgram: {self.report}"


_Converted = TypeVar("_Converted", Conversion, ConvertedProgram)


@overload
def apply(
    model: ExportedProgram,
    scheme: str | Scheme = ...,
    *,
    dim: Dim | str = ...,
    selection: Selection | None = ...,
    inplace: bool = ...,
    example_inputs: tuple[Any, ...] | None = ...,
    how: How = ...,
) -> ConvertedProgram: ...


@overload
def apply(
    model: nn.Module,
    scheme: str | Scheme = ...,
    *,
    dim: Dim | str = ...,
    selection: Selection | None = ...,
    inplace: bool = ...,
    example_inputs: tuple[Any, ...] | None = ...,
    how: How = ...,
) -> Conversion: ...


def apply(
    model: nn.Module | ExportedProgram,
    scheme: str | Scheme = "weight_norm",
    *,
    dim: Dim | str = DEFAULT,
    selection: Selection | None = None,
    inplace: bool = False,
    example_inputs: tuple[Any, ...] | None = None,
    how: How = "module",
) -> Conversion | ConvertedProgram:
    """Give each chosen weight of ``model`` a scheme. A module stays that module, a graph a graph.

    With a function-preserving scheme every composed weight, and so every output, is bit-identical: that is compared
    before a weight is replaced, and a weight for which it fails is skipped with the reason.

    A module keeps its class, methods, hooks and modes, and its forward is not touched: its weights are composed when
    they are read. torch.fx finds them where it can trace, the classes of torch's modules tell where it cannot.

    In a graph module, nodes of plain torch functions compose the weights, and wnconvert is not needed to load and run
    it. Modules that the graph calls as a whole are converted as modules are. The keys are the same either way.

    In a program, nodes of ATen ops compose the weights. The new program is run beside the old one on inputs of several
    sizes, and they are compared to the bit, before it is returned.

    Args:
        model: any module, or a program from `torch.export`; a GraphModule is taken as the graph.
        scheme: a scheme such as ``WeightNorm(p=1)``, or the name of one, taken with its default options.
        dim: the kept dim. A number, None or -1 as in `torch.nn.utils.weight_norm` (the last two mean the whole
            tensor), ``"output"`` for the dim that indexes output channels, or the scheme's own default.
        selection: which weights; all by default.
        inplace: convert ``model`` itself instead of a copy. A program is always a new one, which then shares with the
            old one the tensors that stay.
        example_inputs: positional arguments of a call. A copy of the model is run on them, to see what reads a
            parameter where tracing does not show it; with ``how="graph"`` to compare the graph with the model in both
            modes: outputs, gradients and buffers, to the bit, in two calls.
        how: ``"module"``, or ``"graph"`` to have the whole model traced, as by `wnconvert.trace`.

    Returns:
        the converted model and the report, which unpack as ``(model, report)``.

    Raises:
        CopyError: the model cannot be copied.
        KindError: it is neither a module nor a program, or wrapped in something that would not see the change.
        NothingToConvertError: no weight was converted, and none already was.
        TracingError: ``how="graph"``, and the model has no graph that does what it does.
        UnknownNameError: no scheme has that name.
    """
    if isinstance(model, ExportedProgram):
        program_pass = ProgramApplyPass(scheme, dim=dim, selection=selection)
        return _require_any(ConvertedProgram(*convert(model, program_pass, inplace, example_inputs)))
    _require_module(model, how)
    _require_free(model, reason_against_apply(model))
    pass_ = ApplyPass(scheme, dim=dim, selection=selection)
    if isinstance(model, GraphModule):
        pass_.requires(model)
    with torch.inference_mode(False):
        work = model if inplace else clone(model)
        if how == "graph" or isinstance(work, GraphModule):
            return _require_any(_apply_to_graph(_graph_of(work, example_inputs), pass_))
        finding = find_weights(work, example_inputs)
        report = apply_in_place(work, pass_.scheme, pass_.dim, pass_.selection, weights=finding.weights)
    notes = () if finding.note is None else (f"found by the classes of the modules: {finding.note}",)
    return _require_any(Conversion(work, replace(report, skipped=(*report.skipped, *finding.others), notes=notes)))


@overload
def fold(
    model: ExportedProgram,
    *,
    selection: Selection | None = ...,
    inplace: bool = ...,
    example_inputs: tuple[Any, ...] | None = ...,
    how: How = ...,
) -> ConvertedProgram: ...


@overload
def fold(
    model: nn.Module,
    *,
    selection: Selection | None = ...,
    inplace: bool = ...,
    example_inputs: tuple[Any, ...] | None = ...,
    how: How = ...,
) -> Conversion: ...


def fold(
    model: nn.Module | ExportedProgram,
    *,
    selection: Selection | None = None,
    inplace: bool = False,
    example_inputs: tuple[Any, ...] | None = None,
    how: How = "module",
) -> Conversion | ConvertedProgram:
    """Replace each computed weight of ``model`` by its value. A module stays that module, a graph a graph.

    Folded are torch's hooks and parametrizations of every kind, what `apply` did, and what a forward computes from
    parameters alone and hands to a weighted op. The last needs a graph: the smallest module whose forward computes the
    weight becomes one, and nothing else changes. The values have the bits that the model's own forward computes in
    evaluation mode.

    An exported program gives another one, which is not exported again: its keys are those of the plain model, and all
    else is what it was. Both are run on inputs of several sizes, and compared to the bit, before it is returned.

    Args:
        model: any module, or a program from `torch.export`.
        selection: which weights; all by default.
        inplace: as in `apply`. A program is always a new one, which then shares with the old one
            the tensors that stay.
        example_inputs: with ``how="graph"``, as in `apply`; for a program, inputs to compare both on besides its own.
        how: as in `apply`; a program is a graph.

    Returns:
        the folded model and the report, which unpack as ``(model, report)``.

    Raises:
        CopyError: the model cannot be copied.
        KindError: it is neither a module nor a program, or sharded.
        NothingToConvertError: the model has no weighted op.
        TracingError: ``how="graph"``, and the model has no graph that does what it does.
        VerificationError: an output of the folded program differs.
    """
    chosen = selection or Selection()
    if isinstance(model, ExportedProgram):
        return _require_any(ConvertedProgram(*convert(model, FoldPass(selection=chosen), inplace, example_inputs)))
    _require_module(model, how)
    _require_free(model, reason_against_fold(model, inplace))
    if isinstance(model, GraphModule):
        FoldPass().requires(model)
    with torch.inference_mode(False):
        work = model if inplace else clone(model)
        report = fold_in_place(work, chosen) + fold_reparametrized(work, chosen)
        work, unwrapped = fold_wrappers(work, chosen)
        report += unwrapped
        if how == "graph" or isinstance(work, GraphModule):
            graph_module = _graph_of(work, example_inputs)
            pass_ = FoldPass(selection=chosen)
            pass_.elsewhere = {entry.fqn for entry in report.converted} | {entry.fqn for entry in report.skipped}
            result = pass_.call(graph_module)
            if not result.modified:
                graph_module.recompile()
            return _require_any(Conversion(graph_module, result.report + report))
        work, regions = fold_regions(work, chosen)
        make_ready(work)
    report += regions
    return _require_any(Conversion(work, report + _unnamed(work, report, Why.ALREADY_PLAIN())))


@overload
def fuse(
    model: ExportedProgram,
    fusions: Iterable[str] | None = ...,
    *,
    selection: Selection | None = ...,
    inplace: bool = ...,
    example_inputs: tuple[Any, ...] | None = ...,
    how: How = ...,
    untie: bool = ...,
) -> ConvertedProgram: ...


@overload
def fuse(
    model: nn.Module,
    fusions: Iterable[str] | None = ...,
    *,
    selection: Selection | None = ...,
    inplace: bool = ...,
    example_inputs: tuple[Any, ...] | None = ...,
    how: How = ...,
    untie: bool = ...,
) -> Conversion: ...


def fuse(
    model: nn.Module | ExportedProgram,
    fusions: Iterable[str] | None = None,
    *,
    selection: Selection | None = None,
    inplace: bool = False,
    example_inputs: tuple[Any, ...] | None = None,
    how: How = "module",
    untie: bool = False,
) -> Conversion | ConvertedProgram:
    """Move normalizations of activations into the weights beside them. A module stays that module, a graph a graph.

    Batch norms in evaluation, after or before a convolution or linear layer; the gains and biases of layer and RMS
    norms into all layers that read them; LayerScale and other constants. This is not exact, as `apply` and `fold` are:
    weights are computed in float64 and rounded once, and with ``example_inputs`` the report measures how far the model
    is from float64, and how far it was before. Where nothing shows shapes, convolutions are taken to read batches.

    What is not fused is reported with the reason: a value or a weight that is read elsewhere too, a layer that is
    called twice, statistics of the batch, zeros around an input that a shift would change, a tied weight. Weights that
    are computed are folded first, by `fold`.

    In a module, batch norms leave an `nn.Identity` in their place, and layer norms their normalization. What a forward
    computes by functions can be fused in a graph alone.

    Args:
        model: any module in evaluation mode, or a program from `torch.export`.
        fusions: names of the fusions, ``"batch_norm"`` and ``"gain"``; all by default.
        selection: which normalizations, by their dotted names.
        inplace: as in `apply`.
        example_inputs: positional arguments of a call, to measure on, and to see which dims hold channels; a program
            has an example of its own, and knows its shapes.
        how: as in `apply`.
        untie: let a weight that is tied to others have a value of its own where it takes in a gain.

    Returns:
        the fused model and the report, which unpack as ``(model, report)``.

    Raises:
        CopyError: the model cannot be copied.
        KindError: it is neither a module nor a program, or sharded.
        NothingToConvertError: nothing was fused.
        TracingError: ``how="graph"``, and the model has no graph that does what it does.
        UnknownNameError: there is no such fusion.
        VerificationError: the fused model is further from float64 on ``example_inputs`` than rounding explains.
    """
    pass_ = FusePass(fusions, selection=selection, untie=untie)
    if isinstance(model, ExportedProgram):
        return ConvertedProgram(*fuse_program(model, pass_, inplace, example_inputs))
    _require_module(model, how)
    _require_free(model, reason_against_fuse(model))
    if isinstance(model, GraphModule):
        pass_.requires(model)
    with torch.inference_mode(False):
        fused, report = _fused(
            clone(model) if example_inputs is not None or not inplace else model, pass_, example_inputs, how
        )
        if not report.fused:
            raise NothingToConvertError(nothing(report))
        if example_inputs is not None:
            measured = require_near(measure(model, fused, example_inputs))
            # what is not near is not kept, so the model itself is fused once that is known
            fused = _fused(model, pass_, example_inputs, how).model if inplace else fused
            report = replace(report, measured=measured)
    return Conversion(fused, report)


def _fused(work: nn.Module, pass_: FusePass, example_inputs: tuple[Any, ...] | None, how: str) -> Conversion:
    if how != "graph" and not isinstance(work, GraphModule):
        report = fuse_in_place(work, pass_.fusions, pass_.selection, pass_.untie, example_inputs)
        return Conversion(work, report)
    graph_module = _graph_of(work, None)
    if example_inputs is not None:
        note_shapes(graph_module, example_inputs)
    return Conversion(graph_module, pass_.call(graph_module).report)


def find_weighted_ops(
    model: nn.Module | ExportedProgram, example_inputs: tuple[Any, ...] | None = None
) -> list[WeightedOp]:
    """Return the plain weights of ``model`` that enter weighted ops, in the order of their use; nothing is changed.

    Args:
        model: any module, or a program from `torch.export`.
        example_inputs: as in `apply`.

    Raises:
        KindError: it is something else than a module or a program.
    """
    if isinstance(model, ExportedProgram):
        model = hold(model, share=True).module
    _require_module(model, "module")
    if not isinstance(model, GraphModule):
        return [weight.info for weight in find_weights(model, example_inputs).weights if weight.role]
    entries = Entries(model)
    seen = {id(weight.tensor): weight.info for weight in find(model, entries).weights}
    for weight in live_weights(entries, _opaque_paths(model)):
        if weight.role:
            seen.setdefault(id(weight.tensor), weight.info)
    return list(seen.values())


def _require_module(model: Any, how: str) -> None:
    if how not in ("module", "graph"):
        raise OptionError(f"how is {how!r}; it must be 'module' or 'graph'")
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise KindError(f"a {type(model).__name__} is compiled code; convert the module that it was compiled from")
    if not isinstance(model, nn.Module):
        raise KindError(f"a {type(model).__name__} is no module; for a file there is wnconvert.checkpoint")


def _require_free(model: nn.Module, reason: Reason | None) -> None:
    if reason:
        raise KindError(f"{type(model).__name__!r} is not converted: {reason}")


def _graph_of(work: nn.Module, example_inputs: tuple[Any, ...] | None) -> GraphModule:
    if isinstance(work, GraphModule):
        return work
    graph_module = trace(work)
    if example_inputs is not None:
        require_same(work, graph_module, example_inputs)
    return graph_module


def _apply_to_graph(graph_module: GraphModule, pass_: ApplyPass) -> Conversion:
    opaque, remarks = _opaque_paths(graph_module), remarks_of(graph_module)
    inside = [with_remark(weight, remarks) for weight in live_weights(Entries(graph_module), opaque)]
    already = {each.fqn for each in computed_below(graph_module, opaque)}
    pass_.elsewhere = {owner.fqn for weight in inside for owner in weight.owners} | already
    result = pass_.call(graph_module)
    if not result.modified:
        graph_module.recompile()
    report = result.report
    if opaque:
        report += apply_in_place(graph_module, pass_.scheme, pass_.dim, pass_.selection, opaque, inside)
    report += _unnamed(graph_module, report, Why.UNREAD())
    return Conversion(graph_module, replace(report, notes=(*report.notes, *_notes(graph_module, report))))


def _notes(graph_module: GraphModule, report: Report) -> Iterator[str]:
    """Say what the graph cannot do that one of torch's functions alone can."""
    inside = [entry.fqn for entry in report.converted if entry.how == HOW_OPAQUE]
    if inside:
        yield f"{len(inside)} weights are converted inside of modules that the graph calls: loading it needs wnconvert"
    helpers = {node.target for node in graph_module.graph.nodes if isinstance(node.target, FunctionType)}
    foreign = sorted(each.__qualname__ for each in helpers if each.__module__.partition(".")[0] != "torch")
    if foreign:
        yield f"it calls {', '.join(foreign)}, into which torch.fx would trace when it loads a pickle of the graph"


def _opaque_paths(graph_module: GraphModule) -> set[str]:
    """Return the names of the modules that the graph calls and that are not single weighted ops."""
    paths = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    modules = {path: graph_module.get_submodule(path) for path in paths}
    return {
        path
        for path, module in modules.items()
        if expansion.rule_of_module(module) is None and next(module.parameters(), None) is not None
    }


def _unnamed(model: nn.Module, report: Report, reason: Reason) -> Report:
    """Report as skipped the parameters of ``model`` that may be weights and that ``report`` does not name."""
    named = {name for entry in report.converted for name in (entry.fqn, *entry.keys)}
    named |= {name for entry in report.skipped for name in (entry.fqn, *entry.keys)}
    entries, rest = Entries(model), {}
    for fqn, tensor in entries:
        if fqn in named or not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
            continue
        if is_lazy(tensor) or tensor.dim() < 2:
            continue
        owners = entries.owners(tensor)
        if not any(owner.fqn in named or is_part(owner) for owner in owners):
            rest[id(tensor)] = Skipped(owners[0].fqn, "", reason)
    return Report(skipped=(*rest.values(), *compiled_weights(model)))


def _require_any(conversion: _Converted) -> _Converted:
    report = conversion.report
    if report.converted or any(entry.already for entry in report.skipped):
        return conversion
    reasons = "; ".join(dict.fromkeys(f"{entry.fqn}: {entry.reason}" for entry in report.skipped[:3]))
    reason = reasons or "the model has no weighted op"
    raise NothingToConvertError(f"nothing to convert: {reason}", report=report)
