"""ONNX models made by hand and by torch's exporters, and what is asked of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

SEED = 0
#: the ops of the norm that `normed` writes
NORM = ("ReduceL2", "Div", "Mul")


def array(*shape: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: Sequence[str], output: str, name: str | None = None, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=name or f"node_{output}", **attributes)


def normed(g: str, v: str, output: str) -> list[onnx.NodeProto]:
    """Return weight norm over all dims but the first of a weight with three."""
    return [
        node("ReduceL2", [v], f"{output}_norm", axes=[1, 2], keepdims=1),
        node("Div", [g, f"{output}_norm"], f"{output}_ratio"),
        node("Mul", [v, f"{output}_ratio"], output),
    ]


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, np.ndarray],
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    output: str = "y",
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    """Return a model; its input is ``x`` of shape (batch, 4, time) unless something else is said."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (inputs or {"x": ("batch", 4, "time")}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        infos,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
        **more,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def parts(name: str = "conv", out: int = 8, of: int = 4) -> dict[str, np.ndarray]:
    """Return a convolution's weight in two parts, and its bias."""
    g, v = np.abs(array(out, 1, 1, seed=1)) + 1, array(out, of, 3, seed=2)
    return {f"{name}.weight_g": g, f"{name}.weight_v": v, f"{name}.bias": array(out, seed=3)}


def convolution(weight: str = "w", bias: str = "conv.bias", x: str = "x", y: str = "y") -> onnx.NodeProto:
    return node("Conv", [x, weight, bias], y, name=f"the_{y}", pads=[1, 1])


def one_layer(**more: Any) -> onnx.ModelProto:
    return model([*normed("conv.weight_g", "conv.weight_v", "w"), convolution()], parts(), **more)


def loaded(proto: onnx.ModelProto) -> ir.Model:
    return ir.serde.deserialize_model(proto)


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def ops(graph: ir.Graph | Path) -> list[str]:
    if isinstance(graph, Path):
        graph = ir.load(graph).graph
    return [each.op_type for each in graph]


def weights(path: Path) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in ir.load(path).graph.initializers.items()}


def run(path: Path, **feeds: np.ndarray) -> np.ndarray:
    """Return the first output of a model, as onnxruntime gives it with all that it does by default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def exported(
    module: nn.Module,
    x: torch.Tensor | tuple[torch.Tensor, ...],
    path: Path,
    *,
    dynamo: bool,
    dynamic: bool = True,
    axes: Mapping[int, str] | None = None,
    **more: Any,
) -> Path:
    """Export a module by one of torch's exporters; the first and last dims, or those of ``axes``, are dynamic."""
    args = x if isinstance(x, tuple) else (x,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        if dynamo:
            last = args[0].dim() - 1
            shapes = tuple({0: torch.export.Dim("batch"), last: torch.export.Dim.AUTO} for _ in args)
            program = torch.onnx.export(
                module.eval(), args, dynamo=True, dynamic_shapes=shapes if dynamic else None, verbose=False, **more
            )
            program.save(path)
        else:
            named = {"x": dict(axes or {0: "batch", args[0].dim() - 1: "time"})} if dynamic else None
            buffer = io.BytesIO()
            torch.onnx.export(module.eval(), args, buffer, dynamo=False, input_names=["x"], dynamic_axes=named, **more)
            path.write_bytes(buffer.getvalue())
    return path
