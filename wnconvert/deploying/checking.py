"""Name what goes wrong with computed weights, in whatever form it is: module, graph, program, ONNX file.

What was seen: XNNPACK delegates neither convolutions nor linear layers whose weight is computed (ExecuTorch 1.5,
https://github.com/pytorch/executorch/issues/22078); pt2e with XNNPACK's quantizer quantizes such a weight anew in each
run, with inductor's it leaves the layer alone. What ONNX files cost is told by `wnconvert.onnx_files.inspecting`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from wnconvert.exported.holding import hold
from wnconvert.exported.inside import read_inside
from wnconvert.graph.entries import Entries
from wnconvert.modules import guards
from wnconvert.onnx_files.inspecting import inspect_file
from wnconvert.report import Finding, layers
from wnconvert.weights.expressions import sources
from wnconvert.weights.sites import find


class _Weight(NamedTuple):
    """A computed weight: its name, and the ops that read it, by node."""

    fqn: str
    ops: dict[Node, str]


def check(model: nn.Module | ExportedProgram | str | os.PathLike[str]) -> tuple[Finding, ...]:
    """Return what will go wrong without a word on ``model`` because it carries normalized weights; nothing is changed.

    Of modules it knows torch's hooks and parametrizations, and what `wnconvert.apply` converted in place; of graphs and
    programs all weights that are computed by nodes, whoever wrote them; of ONNX files the same. The findings name what
    the tools say nothing of to which such a model is given next.

    Args:
        model: any module, a graph module too; a program from `torch.export`; or the path of an ONNX file.

    Raises:
        CheckpointError: the file cannot be used.
        KindError: it is something else.
        OptionError: it is a file, and the extra ``[onnx]`` is not installed.
    """
    if isinstance(model, (str, os.PathLike)):
        return inspect_file(Path(model)).findings
    if isinstance(model, ExportedProgram):
        held = hold(model, share=True).module
        return (*_of_graph(_computed(held)), *_inside(held))
    findings = guards.check(model)
    return (*findings, *_of_graph(_computed(model))) if isinstance(model, GraphModule) else findings


def _inside(module: GraphModule) -> Iterable[Finding]:
    """Tell of the weights that branches and the like compute, or are given computed."""
    if found := [each for each in read_inside(module) if each.keys]:
        kinds = ", ".join(dict.fromkeys(each.kind for each in found))
        yield Finding(
            "export",
            tuple(dict.fromkeys(each.names[0] for each in found)),
            f"they are computed for the graphs that {kinds} calls, into which neither fold nor a quantizer looks",
            "fold the model, and export what comes of it",
        )


def _computed(module: GraphModule) -> list[_Weight]:
    found = find(module, Entries(module)).expressions
    by_root, _ = sources(each.root for each in found)
    return [_Weight(by_root[each.root].label, {site.node: site.op for site in each.sites}) for each in found]


def _of_graph(weights: Sequence[_Weight]) -> Iterable[Finding]:
    ops = {node: op for each in weights for node, op in each.ops.items()}
    if ops:
        many = layers(ops.values())
        fqns = tuple(dict.fromkeys(each.fqn for each in weights))
        yield Finding(
            "delegation",
            fqns,
            f"{many} will not be delegated (ExecuTorch), but run one op at a time",
            "fold, and lower what comes of it",
        )
        yield Finding(
            "quantization",
            fqns,
            f"quantizers of graphs leave {many} in floating point, or quantize the weights anew in each run",
            "fold before quantizing",
        )
