"""What is said of an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.onnx_files.graphs import array, convolution, model, node, normed, one_layer, parts, saved
from wnconvert.onnx_files import fold_file
from wnconvert.onnx_files.inspecting import inspect_file


def test_weights_are_told_by_what_computes_them(tmp_path: Path) -> None:
    nodes = [
        *normed("a.weight_g", "a.weight_v", "w"),
        convolution("w", "a.bias", y="h"),
        node("Neg", ["b.weight"], "n"),
        convolution("n", "b.bias", "h", "k"),
        convolution("c.weight", "b.bias", "k", "l"),
        node("RandomNormal", [], "noise", shape=[8, 8, 3]),
        convolution("noise", "b.bias", "l"),
    ]
    tensors = parts("a") | {"b.weight": array(8, 8, 3), "b.bias": array(8), "c.weight": array(8, 8, 3)}
    proto = model(nodes, tensors)
    proto.metadata_props.add(key="license", value="none")
    found = inspect_file(saved(proto, tmp_path / "m.onnx"))
    assert found.metadata == {"license": "none"}
    summary = found.summary
    assert summary.schemes == {"weight_norm": 1, "expression": 1}
    assert (summary.plain, summary.unknown) == (("c.weight",), ("noise",))
    assert (summary.tensors, summary.dtypes) == (6, {"float": 6})
    assert summary.bytes == sum(value.nbytes for value in tensors.values())
    assert found.notes == ("9 nodes, opset 17",)
    (finding,) = found.findings
    assert finding.fqns == ("a.weight", "b.weight")
    assert "leaves 2 convolutions in floating point" in finding.problem


def test_layers_are_counted_each_once_and_not_by_their_biases(tmp_path: Path) -> None:
    nodes = [
        *normed("conv.weight_g", "conv.weight_v", "w"),
        convolution("w", y="h"),
        convolution("w", x="twice", y="k"),
        node("Neg", ["W"], "negative_W"),
        node("Neg", ["R"], "negative_R"),
        node("LSTM", ["steps", "negative_W", "negative_R"], "states", hidden_size=2),
        node("Neg", ["conv.bias"], "bias"),
        convolution("plain", "bias", "h", "l"),
        *(node("ReduceMax", [name], f"most_{name}", keepdims=0) for name in ("k", "states")),
        node("Add", ["l", "most_k"], "m"),
        node("Add", ["m", "most_states"], "y"),
    ]
    tensors = parts() | {"W": array(1, 8, 3), "R": array(1, 8, 2), "plain": array(8, 8, 3)}
    inputs = {"x": ("batch", 4, "time"), "twice": ("batch", 4, "time"), "steps": (5, 1, 3)}
    (finding,) = inspect_file(saved(model(nodes, tensors, inputs), tmp_path / "m.onnx")).findings
    assert finding.fqns == ("conv.weight", "W", "R")
    assert "leaves 2 convolutions and 1 other layer in floating point" in finding.problem


def test_a_computed_bias_alone_is_no_finding(tmp_path: Path) -> None:
    nodes = [node("Neg", ["conv.bias"], "bias"), convolution("conv.weight", "bias")]
    tensors = {"conv.bias": array(8), "conv.weight": array(8, 4, 3)}
    assert inspect_file(saved(model(nodes, tensors), tmp_path / "m.onnx")).findings == ()


def test_a_folded_file_has_no_finding(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(one_layer(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert inspect_file(path).notes == ("4 nodes, opset 17, 1 files of external data",)
    fold_file(path, tmp_path / "out.onnx")
    found = inspect_file(tmp_path / "out.onnx")
    assert found.findings == ()
    assert found.summary.plain == ("conv.weight",)
