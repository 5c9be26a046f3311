"""An ONNX model: the weights' own names, dynamic sizes alive, and onnxruntime's quantizer finds every layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.deploying.nets import Net, Noisy
from wnconvert.deploying.exporting import export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

X = torch.linspace(-1, 1, 4 * 11).reshape(1, 4, 11)


def test_names_sizes_and_outputs(tmp_path):
    model = Net().eval()
    done = export(model, tmp_path / "net.onnx", (X,), dynamic_shapes={"x": {2: "T"}})
    assert done.normalizations == (3, 0)
    assert done.compared.sizes == 3
    proto = onnx.load(tmp_path / "net.onnx")
    names = {each.name for each in proto.graph.initializer}
    assert {"conv.weight", "up.weight", "lin.weight.T", "last.T"} <= names
    assert not [name for name in names if name.startswith("val_") and "weight" in name]
    assert {"conv.weight", "lin.weight.T"} <= set(done.weights)
    assert proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param == "T"
    assert done.counts == {"nodes": len(proto.graph.node)}
    assert not {"ReduceL2", "ReduceSum", "Sqrt", "Div"} & {node.op_type for node in proto.graph.node}
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    longer = torch.randn(1, 4, 50)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(np.asarray(session.run(None, {"x": longer.numpy()})[1])), model(longer)["z"]
        )


def test_two_equal_matrices_keep_their_names_apart(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        model[2].weight.copy_(model[0].weight)
    export(model, tmp_path / "net.onnx", (torch.randn(2, 3, 3),))
    names = {each.name for each in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert names <= {"0.weight.T", "2.weight.T"}
    assert "0.weight.T" in names


def test_noise_cannot_be_compared_and_that_is_said(tmp_path):
    done = export(Noisy(), tmp_path / "net.onnx", (X,))
    assert done.compared.sizes == 0
    assert "random numbers" in done.compared.reason


def test_dynamic_quantization_finds_every_matrix(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    model = nn.Sequential(*(nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)) for _ in range(5)))
    export(model, tmp_path / "net.onnx", (torch.randn(3, 64),))
    quantization.quantize_dynamic(tmp_path / "net.onnx", tmp_path / "int8.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert ops.count("MatMulInteger") == 5
