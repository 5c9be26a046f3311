"""Fuse the normalizations of a live model, which stays the model: its forward goes on calling what it calls."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.fx import Graph, GraphModule
from torch.fx.passes.shape_prop import ShapeProp

from wnconvert.errors import OptionError, TracingError, described
from wnconvert.fusing.fusing import Fusing
from wnconvert.fusing.reads import Reads
from wnconvert.graph.copying import clone
from wnconvert.graph.entries import join
from wnconvert.reasons import Why
from wnconvert.report import Report, Skipped
from wnconvert.selection import Selection
from wnconvert.torch_private import is_batch_norm
from wnconvert.tracing.shadow import is_leaf
from wnconvert.tracing.tracing import Traced, as_graph_module, trace_graph

#: the arguments of a call
_Given: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class _Part:
    """A part of a model that has a sound graph, over its own names."""

    path: str
    module: nn.Module
    traced: Traced


def fuse_in_place(
    model: nn.Module, fusions: Iterable[str], selection: Selection, untie: bool, inputs: tuple[Any, ...] | None = None
) -> Report:
    """Fuse what sound graphs of ``model``, or of its parts where the whole has none, show to stand beside each other.

    A batch norm that is gone leaves an `nn.Identity` in its place, or what it called besides, and a layer norm one
    without its gain. A module that has no graph may read what is below it in any way, so nothing there is fused; unless
    there are inputs, on which the fused model is measured.

    Args:
        model: the model.
        fusions: names of the fusions.
        selection: which normalizations.
        untie: see `wnconvert.passes.fuse.FusePass`.
        inputs: positional arguments of a call, for the shapes of values.

    Raises:
        OptionError: the model does not run on these inputs.
    """
    given = None if inputs is None else _calls(model, inputs)
    parts, note = _sound_parts(model, given)
    if given is not None:
        for part in parts:
            _note_shapes_of(part, given[part.path])
    graphs = [_over_whole(model, part) for part in parts]
    shown = set(model.modules()) if inputs is not None else {part.module for part in parts}
    reads = Reads(model, [graph_module.graph for graph_module in graphs], shown)
    report = Report(notes=() if note is None else (f"looked at part by part: {note}",))
    for graph_module in graphs:
        run = Fusing(graph_module, tuple(fusions), selection, untie, model, reads)
        run.run()
        report += Report(skipped=tuple(run.skipped), fused=tuple(run.fused))
    named = {entry.fqn for entry in report.fused}
    skipped = [entry for entry in report.skipped if entry.fqn not in named]
    named |= {entry.fqn for entry in skipped}
    skipped += _unseen(model, named) if "batch_norm" in fusions else ()
    return replace(report, skipped=tuple(skipped))


def _unseen(model: nn.Module, named: set[str]) -> Iterator[Skipped]:
    """Yield the batch norms that no graph shows."""
    for fqn, module in model.named_modules():
        if is_batch_norm(module) and fqn not in named:
            yield Skipped(fqn, "batch_norm", Why.UNSEEN())


def note_shapes(graph_module: GraphModule, inputs: tuple[Any, ...]) -> None:
    """Note at each node which shape its value has in evaluation; a copy is run, and random generators are put back.

    Raises:
        OptionError: the graph does not run on these inputs.
    """
    copied: Any = clone(graph_module)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            ShapeProp(copied).propagate(*copy.deepcopy(inputs))
        except Exception as error:
            raise OptionError(f"the model does not run on the example inputs: {described(error)}") from error
    for node, ran in zip(graph_module.graph.nodes, copied.graph.nodes, strict=True):
        if "tensor_meta" in ran.meta:
            node.meta["tensor_meta"] = ran.meta["tensor_meta"]


def _calls(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, _Given]:
    """Run a copy of the model, and return what each of its modules is called with first, by its name."""
    copied, given = clone(model), dict[str, _Given]()

    def note(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.setdefault(path, (args, kwargs))

    for path, module in copied.named_modules():
        module.register_forward_pre_hook(partial(note, path), with_kwargs=True)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            copied(*copy.deepcopy(inputs))
        except Exception as error:
            raise OptionError(f"the model does not run on the example inputs: {described(error)}") from error
    return given


def _note_shapes_of(part: _Part, given: _Given) -> None:
    args, kwargs = given
    names = [str(node.target) for node in part.traced.graph.nodes if node.op == "placeholder"]
    if kwargs.keys() <= set(names) and not any(name.startswith("*") for name in names):
        values = dict(zip(names, args, strict=False)) | kwargs
        note_shapes(as_graph_module(part.module, part.traced), tuple(values[name] for name in names if name in values))


def _sound_parts(model: nn.Module, given: Mapping[str, _Given] | None) -> tuple[list[_Part], str | None]:
    """Return the parts that have a graph which does what they do, and why it is more than one.

    Args:
        model: the model.
        given: what its modules are called with; then parts are looked for in modules without a graph, too.
    """
    parts, note = [], None
    pending, seen = [("", model)], set[int]()
    while pending:
        path, part = pending.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        if given is not None and path not in given:  # a container, of which only the parts are called
            pending += [(join(path, name), child) for name, child in part.named_children()]
            continue
        if is_leaf(type(part)):
            continue
        try:
            traced = trace_graph(part)
        except TracingError as error:
            note = note or str(error)
            if given is not None:
                pending += [(join(path, name), child) for name, child in part.named_children()]
            continue
        pending += [(join(path, name), part.get_submodule(name)) for name in traced.opaque]
        # no dropout of theirs has to follow the mode: they are read, and run in evaluation alone
        parts.append(_Part(path, part, replace(traced, followers=set())))
    return parts, note


def _over_whole(model: nn.Module, part: _Part) -> GraphModule:
    """Return the graph of a part over the names of the whole model."""
    graph: Graph = part.traced.graph
    if part.path:
        for node in graph.nodes:
            if node.op in ("get_attr", "call_module"):
                node.target = join(part.path, str(node.target))
    return as_graph_module(model, part.traced, recompile=False)
