"""The pass that puts computed weights into the place of what computes them; all else stays, node for node."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from wnconvert.onnx_files.evaluating import CannotComputeError, evaluate
from wnconvert.onnx_files.expressions import Found, Weight, find_weights, first_unknown, graphs_of, is_stored
from wnconvert.onnx_files.names import FOLDED, Names, identify, is_made_up, keys_of, told_by_module
from wnconvert.reasons import Reason, Why
from wnconvert.report import Converted, Report, Skipped

if TYPE_CHECKING:
    from wnconvert.selection import Selection


@dataclass
class FoldResult(ir.passes.PassResult):
    """What became of a model.

    Attributes:
        report: weight by weight.
        renamed: the new names of plain weights by those that their exporter made up.
        values: the new initializers.
    """

    report: Report = field(default_factory=Report)
    renamed: dict[str, str] = field(default_factory=dict)
    values: list[ir.Value] = field(default_factory=list)


class FoldWeightsPass(ir.passes.InPlacePass):
    """Evaluate the weights of a model that are computed from its initializers alone.

    What is evaluated ends in a weight operand (Conv, ConvTranspose, Gemm, MatMul, Gather, LSTM, GRU, RNN), and becomes
    an initializer by the name of the parameter: ``conv.weight`` for what was computed from ``conv.weight_g`` and
    ``conv.weight_v``. Every other node keeps its place, its name and its attributes.

    Args:
        selection: which weights; by default all.
    """

    def __init__(self, selection: Selection | None = None) -> None:
        self._selection = selection

    def requires(self, model: ir.Model) -> None:
        """Check that what is read is there, and has a name."""
        if (name := first_unknown(model)) is not None:
            raise ir.passes.PreconditionError(f"{name!r} is read, and nothing makes it")
        for graph in graphs_of(model):
            for node in graph:
                if any(output.name is None for output in node.outputs):
                    raise ir.passes.PreconditionError(f"an output of the node {node.name!r} has no name")

    def call(self, model: ir.Model) -> FoldResult:
        """Fold the weights of a model."""
        return _Folding(model, self._selection).run()

    def ensures(self, model: ir.Model) -> None:
        """Check that no node reads what is not there."""
        if (name := first_unknown(model)) is not None:
            raise ir.passes.PostconditionError(f"{name!r} is read, and not there any more")


class _Folding:
    """One run of the pass."""

    def __init__(self, model: ir.Model, selection: Selection | None) -> None:
        self.model, self.selection = model, selection
        self.found: Found = find_weights(model)
        self.names = Names(model)
        self.entries: dict[Weight, Converted | Skipped] = {}
        self.values: dict[Weight, ir.Value] = {}
        self.calls: list[ir.Node] = []
        self.depth = {graph: index for index, graph in enumerate(graphs_of(model))}
        #: new initializers by their name, to share what an exporter wrote once for each call of a module
        self.made: dict[tuple[ir.Graph, str], list[ir.Value]] = {}

    def run(self) -> FoldResult:
        for weight in self.found.weights:
            if weight.reason is not None and not (weight.is_bias and weight.reason.why.already):
                self.entries[weight] = _skipped(weight, weight.reason)
        for group in self.found.groups:
            chosen = [weight for weight in group if self._is_chosen(weight)]
            if chosen:
                self._fold(chosen, group)
        self._tell_tied()
        self._remove_dead()
        self._settle_names()
        renamed = self._restore_names() if self.values else {}
        report = Report(
            converted=tuple(each for each in self._entries() if isinstance(each, Converted)),
            skipped=tuple(each for each in self._entries() if isinstance(each, Skipped)),
        )
        return FoldResult(self.model, bool(self.values), report, renamed, list(dict.fromkeys(self.values.values())))

    def _entries(self) -> list[Converted | Skipped]:
        entries = [self.entries[weight] for weight in self.found.weights if weight in self.entries]
        return list(dict.fromkeys(entries))

    def _is_chosen(self, weight: Weight) -> bool:
        name, _ = identify(weight)
        against = self._against(name, weight)
        if against is not None:
            self.entries[weight] = Skipped(name, weight.ops, against, keys_of(weight))
        return against is None

    def _against(self, name: str, weight: Weight) -> Reason | None:
        if self.selection is None:
            return None
        import torch  # which whoever made a selection has imported

        from wnconvert.selection import WeightedOp

        shape = weight.value.shape
        sizes = tuple(shape.numpy()) if shape is not None and shape.is_static() else ()
        return self.selection.reason_against(WeightedOp(name, tuple(weight.ops.split(",")), sizes, torch.float32))

    def _fold(self, chosen: list[Weight], group: list[Weight]) -> None:
        try:
            arrays = evaluate(group, self.model, self.found.order)
        except CannotComputeError as error:
            for weight in chosen:
                self.entries[weight] = _skipped(weight, Why.FAILS(error=error))
            return
        self.calls += [node for weight in group for node in weight.nodes]
        for weight, array in zip(group, arrays, strict=True):
            if weight in chosen and isinstance(array, np.ndarray) and _is_real(array):
                self._put(weight, array)

    def _put(self, weight: Weight, array: np.ndarray) -> None:
        """Let a stored tensor take the place of a computed value."""
        name, scheme = identify(weight, array.shape)
        graph = self._home_of(weight)
        kind = scheme.name if scheme else "expression"
        self.entries[weight] = Converted(name, weight.ops, kind, keys_of(weight), plain=True)
        for made in self.made.setdefault((graph, name), []):
            known = made.const_value.numpy() if made.const_value is not None else None
            if known is not None and _same(known, array):
                self.values[weight] = made
                break
        else:
            tensor = ir.tensor(array, name=weight.value.name)
            value = ir.Value(name=None, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
            value.const_value = tensor
            self.made[graph, name].append(value)
            self.values[weight] = value
        value = self.values[weight]
        if weight.value.is_graph_output():
            for node, index in weight.sites:
                node.replace_input_with(index, value)
        else:
            weight.value.replace_all_uses_with(value)

    def _home_of(self, weight: Weight) -> ir.Graph:
        """Return the graph that a weight is stored in: the innermost of those that hold what it was computed from.

        So the branches of an `If` that compute one weight share it.
        """
        held = [leaf.graph for leaf in weight.leaves if leaf.is_initializer() and leaf.graph is not None]
        return max(held, key=lambda graph: self.depth[graph], default=self.model.graph)

    def _tell_tied(self) -> None:
        """Tell of weights that are read in two arrangements: the other one stays as it is, a view of the first."""
        for weight in self.found.weights:
            if weight.base is not None:
                entry = self.entries.get(weight.base)
                if isinstance(entry, Converted):
                    ops = ",".join(dict.fromkeys((*entry.op.split(","), *weight.ops.split(","))))
                    self.entries[weight.base] = replace(entry, op=ops)
                elif entry is not None:
                    self.entries[weight] = Skipped(weight.value.name or "", weight.ops, entry.reason, entry.keys)

    def _remove_dead(self) -> None:
        """Remove the calls that computed what is stored now, and the stored tensors that nothing else reads."""
        gone: dict[ir.Node, None] = {}
        leaves: dict[ir.Value, None] = {}
        for node in sorted(self.calls, key=self.found.order.__getitem__, reverse=True):
            if all(_is_dead(output, gone) for output in node.outputs):
                gone[node] = None
                leaves |= dict.fromkeys(value for value in node.inputs if value is not None and is_stored(value))
        for value in leaves:
            constant = value.producer()
            if constant is not None and _is_dead(value, gone):
                gone[constant] = None
        _remove(gone)
        for output in (output for node in gone for output in node.outputs):
            self.names.free(output.name or "")
        for value in leaves:
            if (
                value.graph is not None
                and value.is_initializer()
                and _is_dead(value, {})
                and not value.is_graph_input()
            ):
                self.names.free(value.name or "")
                value.graph.initializers.pop(value.name or "")

    def _settle_names(self) -> None:
        """Give the new initializers their names, now that those of what is gone are free."""
        for (graph, name), values in self.made.items():
            taken = not self.names.is_free(name) and name in graph.initializers
            for value in values:
                value.name = self.names.take(f"{name}{FOLDED}" if taken else name)
                graph.register_initializer(value)
        for weight, value in self.values.items():
            entry = self.entries[weight]
            if isinstance(entry, Converted) and value.name != entry.fqn:
                self.entries[weight] = replace(entry, fqn=value.name or "")

    def _restore_names(self) -> dict[str, str]:
        """Give plain weights their names back that the exporter computed itself, where it tells whose they are."""
        renamed = {}
        for weight in self.found.weights:
            value, old = weight.value, weight.value.name or ""
            if (
                weight in self.values
                or value.graph is not self.model.graph
                or not value.is_initializer()
                or value.is_graph_input()
                or not is_made_up(value)
                or value.is_graph_output()
            ):
                continue
            name = told_by_module(*weight.sites[0])
            if name is not None and self.names.is_free(name):
                self.names.free(old)
                value.name = renamed[old] = self.names.take(name)
                entry = self.entries[weight]
                if isinstance(entry, Skipped):
                    self.entries[weight] = replace(entry, fqn=name)
        return renamed


def _remove(nodes: Iterable[ir.Node]) -> None:
    """Remove nodes, those of inner graphs first: they read what is in outer ones."""
    removed: dict[ir.Graph, list[ir.Node]] = {}
    for node in nodes:
        if isinstance(node.graph, ir.Graph):
            removed.setdefault(node.graph, []).append(node)
    for graph, each in removed.items():
        graph.remove(each, safe=True)


def _is_dead(value: ir.Value, gone: Container[ir.Node]) -> bool:
    """Return whether nothing reads a value but what is gone."""
    return not value.is_graph_output() and all(user in gone for user, _ in value.uses())


def _skipped(weight: Weight, reason: Reason) -> Skipped:
    keys = keys_of(weight) if weight.leaves else ()
    name = identify(weight)[0] if weight.nodes else weight.value.name or ""
    return Skipped(name, weight.ops, reason, keys)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays are the same to the bit; one weight may be read in two shapes."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _is_real(array: np.ndarray) -> bool:
    """Return whether an array holds numbers of a weight, and no indices."""
    return array.dtype.kind in "fV" or ir.DataType.from_numpy(array.dtype).is_floating_point()
