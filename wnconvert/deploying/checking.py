"""Name what goes wrong with computed weights, in whatever form it is: module, graph, program, ONNX file.

What was seen: XNNPACK delegates neither convolutions nor linear layers whose weight is computed (ExecuTorch 1.5,
https://github.com/pytorch/executorch/issues/22078); pt2e with XNNPACK's quantizer quantizes such a weight anew in each
run, with inductor's it leaves the layer alone; onnxruntime's dynamic quantizer passes over some, and fails on others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from wnconvert.errors import NothingToConvertError
from wnconvert.exported.holding import hold
from wnconvert.graph.entries import Entries
from wnconvert.modules import guards
from wnconvert.onnx_files.conversion import fold_file
from wnconvert.report import Finding
from wnconvert.weights.expressions import sources
from wnconvert.weights.sites import find


class _Weight(NamedTuple):
    """A computed weight: its name, and the ops that read it."""

    fqn: str
    ops: Sequence[str]


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
        return tuple(_of_onnx(Path(model)))
    if isinstance(model, ExportedProgram):
        return tuple(_of_graph(_computed(hold(model, share=True).module)))
    findings = guards.check(model)
    return (*findings, *_of_graph(_computed(model))) if isinstance(model, GraphModule) else findings


def _computed(module: GraphModule) -> list[_Weight]:
    found = find(module, Entries(module)).expressions
    by_root, _ = sources(each.root for each in found)
    return [_Weight(by_root[each.root].label, [site.op for site in each.sites]) for each in found]


def _of_graph(weights: Sequence[_Weight]) -> Iterable[Finding]:
    if layers := _layers(weights):
        fqns = tuple(dict.fromkeys(each.fqn for each in weights))
        yield Finding(
            "delegation",
            fqns,
            f"{layers} will not be delegated (ExecuTorch), but run one op at a time",
            "fold, and lower what comes of it",
        )
        yield Finding(
            "quantization",
            fqns,
            f"quantizers of graphs leave {layers} in floating point, or quantize the weights anew in each run",
            "fold before quantizing",
        )


def _of_onnx(path: Path) -> Iterable[Finding]:
    try:
        report = fold_file(path, None).report
    except NothingToConvertError:
        return
    weights = [_Weight(each.fqn, each.op.split(",")) for each in report.converted]
    yield Finding(
        "quantization",
        tuple(each.fqn for each in weights),
        f"onnxruntime's dynamic quantizer fails, or leaves {_layers(weights)} in floating point",
        "wnconvert fold the file before quantizing",
    )


def _layers(weights: Iterable[_Weight]) -> str:
    """Return how many layers of which kind read computed weights, ``2 convolutions and 1 other layer``."""
    ops = [op for each in weights for op in each.ops]
    convolutions = sum("conv" in op.lower() for op in ops)
    kinds = (convolutions, "convolution"), (len(ops) - convolutions, "other layer" if convolutions else "layer")
    return " and ".join(f"{count} {noun if count == 1 else noun + 's'}" for count, noun in kinds if count)
