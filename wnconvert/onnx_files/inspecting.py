"""What is in an ONNX file: its weights, which of them are computed, and what that costs where it is deployed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wnconvert.checkpoint.inspecting.summary import StateDictSummary
from wnconvert.checkpoint.storage.opened import require_file
from wnconvert.onnx_files.confined import confined
from wnconvert.onnx_files.conversion import files_of
from wnconvert.onnx_files.needed import require_extra
from wnconvert.onnx_files.ops import BIASES
from wnconvert.report import Finding, layers

if TYPE_CHECKING:
    import onnx_ir as ir

    from wnconvert.onnx_files.expressions import Weight


@dataclass(frozen=True)
class Inspected:
    """What there is to say of a file.

    Attributes:
        metadata: its properties, by name.
        summary: its initializers; weights under ``"expression"`` are computed by what no scheme claims.
        findings: what goes silently wrong where weights are computed.
        notes: what it is besides.
    """

    metadata: dict[str, str]
    summary: StateDictSummary
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def inspect_file(path: Path) -> Inspected:
    """Return what is in a file. Nothing is computed.

    Raises:
        CheckpointError: it cannot be read.
    """
    require_extra()
    require_file(path)
    found: Inspected = confined(f"{__name__}:_inspect", files_of(path), path)
    return found


def _inspect(path: Path) -> Inspected:
    from wnconvert.onnx_files.expressions import find_weights
    from wnconvert.onnx_files.names import identify
    from wnconvert.onnx_files.reading import read

    file = read(path)
    tensors = {id(v): v.const_value for g in file.graphs for v in g.initializers.values() if v.const_value is not None}
    schemes: Counter[str] = Counter()
    computed, plain, left = [], [], []
    _infer_shapes(file.model)
    weights = find_weights(file.model).weights
    for weight in weights:
        if weight.reason is None and weight.base is None:
            name, scheme = identify(weight)
            schemes[scheme.name if scheme else "expression"] += 1
            computed += [] if weight.is_bias else [name]
        elif weight.reason is not None and weight.reason.why.already and not weight.is_bias:
            plain.append(weight.value.name or "")
        elif weight.reason is not None and not weight.is_bias:
            left.append(weight.value.name or "")
    summary = StateDictSummary(
        path="",
        tensors=len(tensors),
        others=0,
        dtypes=dict(Counter(tensor.dtype.name.lower() for tensor in tensors.values())),
        bytes=sum(tensor.nbytes for tensor in tensors.values()),
        schemes=dict(schemes),
        unknown=tuple(left),
        plain=tuple(plain),
        zero={},
        non_finite={},
    )
    opset = file.model.graph.opset_imports.get("")
    count = sum(map(len, file.nodes.values()))
    notes = (f"{count} nodes, opset {opset}" + (f", {len(file.data)} files of external data" if file.data else ""),)
    return Inspected(dict(file.model.metadata_props), summary, _findings(computed, weights), notes)


def _infer_shapes(model: ir.Model) -> None:
    """Note what shapes computed weights have, as far as ONNX knows: some are called by the parameter of their shape."""
    from onnx_ir.passes.common import ShapeInferencePass

    with suppress(Exception):  # a model that is damaged there can be told of all the same
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _findings(computed: list[str], weights: Iterable[Weight]) -> tuple[Finding, ...]:
    """Return what computed weights cost: onnxruntime's dynamic quantizer passes over some, and fails on others."""
    if not (ops := _readers(weights)):
        return ()
    return (
        Finding(
            "quantization",
            tuple(dict.fromkeys(computed)),
            f"onnxruntime's dynamic quantizer fails, or leaves {layers(ops)} in floating point",
            "wnconvert fold the file before quantizing",
        ),
    )


def _readers(weights: Iterable[Weight]) -> list[str]:
    """Return the op of each node that reads a weight which can be folded, its bias aside."""
    sites = (site for weight in weights if weight.reason is None for site in weight.sites)
    nodes: dict[ir.Node, str] = {node: node.op_type for node, index in sites if (node.op_type, index) not in BIASES}
    return list(nodes.values())
