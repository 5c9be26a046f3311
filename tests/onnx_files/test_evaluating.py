"""The values of computed weights are those that onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from tests.onnx_files.graphs import array, convolution, loaded, model, node, one_layer, parts, run, saved
from wnconvert.onnx_files.evaluating import CannotComputeError, evaluate
from wnconvert.onnx_files.expressions import find_weights


def values(proto: onnx.ModelProto) -> list[np.ndarray]:
    read = loaded(proto)
    found = find_weights(read)
    return evaluate(found.groups[0], read, found.order)


def test_the_bits_are_those_of_the_same_calls_in_onnxruntime(tmp_path: Path) -> None:
    proto = one_layer()
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    exposed.graph.node[-1].CopyFrom(node("Add", ["w", "zero"], "y"))
    exposed.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    del exposed.graph.input[:]
    assert np.array_equal(values(proto)[0], run(saved(exposed, tmp_path / "exposed.onnx")))
    tensors = parts()
    g, v = tensors["conv.weight_g"], tensors["conv.weight_v"]
    np.testing.assert_allclose(values(proto)[0], v * g / np.sqrt((v**2).sum((1, 2), keepdims=True)), rtol=1e-6)


def test_weights_that_share_calls_are_computed_together() -> None:
    nodes = [
        node("ReduceL2", ["s"], "length", keepdims=1),
        *(node("Div", [name, "length"], f"w_{name}") for name in "ab"),
        node("MatMul", ["x", "w_a"], "h"),
        node("MatMul", ["h", "w_b"], "y"),
    ]
    tensors = {"s": array(2, 2), "a": array(4, 4, seed=1), "b": array(4, 4, seed=2)}
    first, second = values(model(nodes, tensors, {"x": ("n", 4)}))
    length = np.sqrt((tensors["s"] ** 2).sum(dtype=np.float32))
    np.testing.assert_allclose([first, second], [tensors["a"] / length, tensors["b"] / length], rtol=1e-6)


def test_half_precision_is_computed_too() -> None:
    tensors = {name: value.astype(np.float16) for name, value in parts().items()}
    read = one_layer()
    del read.graph.initializer[:]
    read.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in tensors.items())
    (found,) = values(read)
    assert found.dtype == np.float16
    bfloat = [onnx.numpy_helper.from_array(value.astype(ml_dtypes.bfloat16), name) for name, value in parts().items()]
    del read.graph.initializer[:]
    read.graph.initializer.extend(bfloat)
    (found,) = values(read)
    assert found.dtype == ml_dtypes.bfloat16
    assert np.isfinite(found.astype(np.float32)).all()


def test_what_cannot_be_computed_is_said() -> None:
    nodes = [node("Reshape", ["conv.weight_v", "shape"], "w"), node("Neg", ["w"], "n"), convolution("n")]
    with pytest.raises(CannotComputeError, match="shape"):
        values(model(nodes, parts() | {"shape": np.array([7, 7])}))


def test_an_attribute_of_no_type_cannot_be_computed_with() -> None:
    proto = one_layer()
    proto.graph.node[0].attribute[0].type = onnx.AttributeProto.UNDEFINED
    with pytest.raises(CannotComputeError):
        values(proto)
