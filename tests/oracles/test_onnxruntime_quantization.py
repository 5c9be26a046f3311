"""onnxruntime.quantization, dynamic and static, on files that torch's exporter wrote."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles.quantized import folded, inputs, normalized, plain

pytest.importorskip("onnxscript")
quantization = pytest.importorskip("onnxruntime.quantization")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

CASES = ("vocoder, parametrized", "vocoder, applied graph", "linear, spectral norm")
#: the layers of the plain models that are quantized: the dynamic quantizer knows no transposed convolution
DYNAMIC = {"vocoder": 2, "linear": 2}
STATIC = {"vocoder": 3, "linear": 2}


class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
    """One batch."""

    def __init__(self, x: Tensor) -> None:
        self.batches: Iterator[dict[str, Any]] = iter([{"x": x.numpy()}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def written(model: nn.Module, case: str, folder: Path) -> Path:
    """Export a model, with whatever the exporter warns of."""
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (inputs(case),), path, dynamo=True, input_names=["x"], verbose=False)
    return path


def dynamic(model: nn.Module, case: str, folder: Path) -> Any:
    path = written(model, case, folder)
    # of integer convolutions, onnxruntime runs only those with unsigned weights
    quantization.quantize_dynamic(path, folder / "out.onnx", weight_type=quantization.QuantType.QUInt8)
    return onnx.load(folder / "out.onnx")


def static(model: nn.Module, case: str, folder: Path) -> Any:
    path = written(model, case, folder)
    quantization.quantize_static(path, folder / "out.onnx", Calibration(inputs(case)))
    return onnx.load(folder / "out.onnx")


def integer_ops(model: Any) -> int:
    """Return how many layers compute with a weight that the file holds in 8 bits."""
    stored = {each.name for each in model.graph.initializer}
    layers = ("MatMulInteger", "ConvInteger")
    return sum(node.op_type in layers and node.input[1] in stored for node in model.graph.node)


def in_float(model: Any) -> int:
    """Return how many products are computed in float, but for transposed convolutions."""
    return sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.graph.node)


def held_as_integers(model: Any) -> int:
    """Return how many layers have a weight that the file holds in 8 bits."""
    stored = {each.name for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8}
    made = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    layers = ("Conv", "ConvTranspose", "Gemm")
    return sum(node.op_type in layers and node.input[1] in made for node in model.graph.node)


TOOLS: dict[str, tuple[Callable[..., Any], Callable[[Any], int], dict[str, int]]] = {
    "dynamic": (dynamic, integer_ops, DYNAMIC),
    "static": (static, held_as_integers, STATIC),
}


def run(folder: Path, case: str) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "out.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs(case).numpy()})[0]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("case", CASES)
def test_it_takes_every_folded_layer_and_not_the_normalized(case: str, tool: str, tmp_path: Path) -> None:
    quantized, count, known = TOOLS[tool]
    wanted = known[case.split(", ")[0]]
    assert count(quantized(plain(case), case, tmp_path)) == wanted
    expected = run(tmp_path, case)
    assert count(quantized(folded(case), case, tmp_path)) == wanted
    # the same bits, for all that was quantized is the same
    assert (run(tmp_path, case) == expected).all()
    assert tool == "static" or in_float(onnx.load(tmp_path / "out.onnx")) == 0
    if tool == "dynamic" and case.startswith("vocoder"):
        with pytest.raises(ValueError, match="to be an initializer"):
            quantized(normalized(case), case, tmp_path)
        return
    model = quantized(normalized(case), case, tmp_path)
    # the dynamic quantizer takes products of the spectral norm for layers, and leaves others
    assert count(model) < wanted or in_float(model) > 0
