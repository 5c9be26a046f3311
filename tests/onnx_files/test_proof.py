"""Both models are run on inputs that fit them, and what differs is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_files.graphs import array, convolution, model, node, one_layer, parts, saved
from wnconvert.errors import VerificationError
from wnconvert.onnx_files import proof
from wnconvert.onnx_files.proof import prove


def proven(before: onnx.ModelProto, after: onnx.ModelProto, folder: Path) -> str:
    (folder / "out").mkdir(exist_ok=True)
    return prove(saved(before, folder / "m.onnx"), saved(after, folder / "out" / "m.onnx"), folder)


def scaled(factor: float) -> onnx.ModelProto:
    proto = one_layer()
    g = proto.graph.initializer[0]
    g.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(g) * factor).astype(np.float32), g.name))
    return proto


def test_equal_models_are_equal_at_several_sizes(tmp_path: Path) -> None:
    said = proven(one_layer(), one_layer(), tmp_path)
    assert said == "outputs compared in onnxruntime on 3 random inputs of different sizes: the same bits"


def test_another_output_is_refused_and_rounding_is_told(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="gives other outputs"):
        proven(one_layer(), scaled(1.01), tmp_path)
    assert "the same up to rounding (0." in proven(one_layer(), scaled(1 + 2e-7), tmp_path)


def test_a_folded_model_that_fails_is_refused(tmp_path: Path) -> None:
    broken = model([convolution("v")], parts() | {"v": array(8, 5, 3)})
    with pytest.raises(VerificationError, match="fails where the input does not"):
        proven(one_layer(), broken, tmp_path)


def test_what_cannot_be_run_says_nothing_and_is_told(tmp_path: Path) -> None:
    own = model([helper.make_node("Own", ["x"], ["y"], domain="my.own")], {})
    own.opset_import.add(domain="my.own", version=1)
    assert "onnxruntime does not run the input" in proven(own, own, tmp_path)
    wants = model([node("Reshape", ["x", "shape"], "y")], {"shape": np.array([12345])})
    assert "no random input fits" in proven(wants, wants, tmp_path)
    sequence = model([node("SequenceAt", ["x", "zero"], "y")], {"zero": np.array(0)})
    sequence.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    assert "no seq(tensor(float)) is drawn" in proven(sequence, sequence, tmp_path)


def test_whole_numbers_are_indices_of_their_table(tmp_path: Path) -> None:
    lookup = model([node("Gather", ["table", "i"], "y")], {"table": array(1000, 3)})
    lookup.graph.input[0].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, ("batch", "time")))
    path = saved(lookup, tmp_path / "m.onnx")
    session = proof._session(path, tmp_path)
    drawn = np.concatenate([each["i"].ravel() for each in proof._draw(session, proof._vocabularies(path))])
    assert drawn.min() >= 0
    assert 900 < drawn.max() < 1000


def test_dims_of_one_name_have_one_size(tmp_path: Path) -> None:
    add = model([node("Add", ["a", "b"], "y")], {}, {"a": ("batch", "time"), "b": ("batch", "time")})
    assert "the same bits" in proven(add, add, tmp_path)


def test_large_sizes_are_tried_where_small_ones_do_not_fit(tmp_path: Path) -> None:
    wide = model([node("Conv", ["x", "w"], "y", dilations=[100])], {"w": array(2, 4, 3)})
    assert "on 3 random inputs" in proven(wide, wide, tmp_path)


def test_models_that_draw_numbers_draw_the_same(tmp_path: Path) -> None:
    draws = [node("RandomNormalLike", ["x"], "noise"), node("Add", ["x", "noise"], "y")]
    before = model([node("Identity", ["x"], "unused"), *draws], {})
    assert "the same bits" in proven(before, model(draws, {}), tmp_path)
    fixed = model([node("RandomNormalLike", ["x"], "noise", seed=5.0), draws[1]], {})
    with pytest.raises(VerificationError):
        proven(before, fixed, tmp_path)


def test_non_finite_outputs_are_compared_too() -> None:
    nan, inf = np.float32("nan"), np.float32("inf")
    one = np.array([nan, inf, 1], np.float32)
    assert proof._compared(one, one.copy()) == 0
    for other in ([1, inf, 1], [nan, -inf, 1], [nan, inf, nan], [nan, 3, 1]):
        with pytest.raises(VerificationError):
            proof._compared(one, np.array(other, np.float32))
    with pytest.raises(VerificationError):
        proof._compared([one], [one, one])
    with pytest.raises(VerificationError):
        proof._compared(np.array([1]), np.array([2]))
