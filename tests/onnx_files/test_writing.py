"""What is written is what was read, but for what the pass changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_files.graphs import array, convolution, model, node, normed, one_layer, parts, saved
from wnconvert.errors import OutputError, VerificationError
from wnconvert.onnx_files import reading, writing
from wnconvert.onnx_files.folding import FoldResult, FoldWeightsPass
from wnconvert.onnx_files.reading import read
from wnconvert.onnx_files.writing import require_held, write


def rewritten(path: Path) -> tuple[onnx.ModelProto, list[str], FoldResult]:
    file = read(path)
    result = FoldWeightsPass()(file.model)
    folder = path.parent / "out"
    folder.mkdir()
    written = write(file, result, folder, "m.onnx", "m.onnx.data")
    require_held(result, folder / "m.onnx")
    return onnx.load(folder / "m.onnx"), written, result


def rich() -> onnx.ModelProto:
    """Return a model with one of everything that a file can hold besides."""
    proto = model(
        [node("Neg", ["x"], "before"), *normed("conv.weight_g", "conv.weight_v", "w"), convolution(x="before")],
        parts(),
        doc_string="a graph",
        value_info=[
            helper.make_tensor_value_info("w", TensorProto.FLOAT, (8, 4, 3)),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ("batch", 4, "time")),
        ],
    )
    proto.producer_name, proto.producer_version, proto.doc_string, proto.model_version = "p", "1", "a model", 7
    proto.metadata_props.add(key="license", value="none")
    proto.opset_import.add(domain="my.own", version=3)
    proto.functions.append(
        helper.make_function("my.own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], "b")], proto.opset_import[:1])
    )
    proto.graph.quantization_annotation.add(tensor_name="before").quant_parameter_tensor_names.add(key="S", value="s")
    proto.graph.quantization_annotation.add(tensor_name="w")
    proto.training_info.add().algorithm.name = "sgd"
    sparse = proto.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    proto.graph.node[0].name = ""
    proto.graph.node[0].metadata_props.add(key="from", value="somewhere")
    return proto


def test_all_else_is_what_it_was_to_the_bit(tmp_path: Path) -> None:
    expected = rich()
    found, written, _ = rewritten(saved(rich(), tmp_path / "m.onnx"))
    assert written == ["m.onnx"]
    (weight,) = (each for each in found.graph.initializer if each.name == "conv.weight")
    assert weight.dims == [8, 4, 3]
    found.graph.initializer.remove(weight)
    bias, neg, conv = (
        next(e for e in f if e.name in n or not e.name)
        for f, n in (
            (expected.graph.initializer, {"conv.bias"}),
            (expected.graph.node, {""}),
            (expected.graph.node[4:], {"the_y"}),
        )
    )
    conv.input[1] = "conv.weight"
    kept = {"initializer": [bias], "node": [neg, conv], "value_info": [expected.graph.value_info[1]]}
    kept["quantization_annotation"] = [expected.graph.quantization_annotation[0]]
    for field, values in kept.items():
        copies = [type(each).FromString(each.SerializeToString()) for each in values]
        expected.graph.ClearField(field)
        getattr(expected.graph, field).extend(copies)
    assert found == expected


@pytest.mark.parametrize("threshold", [0, 100])
def test_external_data_are_external_again(tmp_path: Path, threshold: int) -> None:
    path = tmp_path / "m.onnx"
    proto = one_layer()
    table = node("Constant", [], "table", value=numpy_helper.from_array(array(40), "table"))
    proto.graph.node.insert(0, table)
    onnx.save(proto, path, save_as_external_data=True, location="d", size_threshold=threshold, convert_attribute=True)
    found, written, result = rewritten(path)
    assert written == ["m.onnx.data", "m.onnx"]
    assert [each.op_type for each in found.graph.node] == ["Constant", "Conv"]
    assert np.array_equal(numpy_helper.to_array(found.graph.node[0].attribute[0].t), array(40))
    bare = onnx.load(tmp_path / "out" / "m.onnx", load_external_data=False)
    places = {t.name: t.data_location == TensorProto.EXTERNAL for t in reading.tensors_of(bare)}
    assert places == {"table": True, "conv.bias": threshold == 0, "conv.weight": True}
    for each in result.values:
        stored = next(t for t in found.graph.initializer if t.name == each.name)
        assert np.array_equal(numpy_helper.to_array(stored), each.const_value.numpy())


def test_where_the_graph_would_be_too_large_new_weights_are_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGEST", 600)
    monkeypatch.setattr(writing, "_SPARE", 100)
    found, written, _ = rewritten(saved(one_layer(), tmp_path / "m.onnx"))
    assert written == ["m.onnx.data", "m.onnx"]
    assert {each.name for each in found.graph.initializer} == {"conv.bias", "conv.weight"}
    monkeypatch.setattr(writing, "LARGEST", 100)
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match="less than 2 GB"):
        rewritten(saved(one_layer(), tmp_path / "other" / "m.onnx"))


@pytest.mark.parametrize("inside", [False, True])
def test_weights_in_inner_graphs_are_written_where_their_parts_were(tmp_path: Path, inside: bool) -> None:
    tensors = parts()
    body = helper.make_graph(
        [*normed("conv.weight_g", "conv.weight_v", "w"), convolution(y="inner")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()] if inside else [],
    )
    other = helper.make_graph([node("Neg", ["x"], "other")], "other", [], [body.output[0]])
    other.output[0].name = "other"
    choice = node("If", ["flag"], "y", then_branch=body, else_branch=other if inside else body)
    proto = model([choice], {} if inside else tensors)
    proto.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, ()))
    found, _, _ = rewritten(saved(proto, tmp_path / "m.onnx"))
    inner = {attribute.name: attribute.g for attribute in found.graph.node[0].attribute}["then_branch"]
    assert [each.op_type for each in inner.node] == ["Conv"]
    assert inner.node[0].input[1] == "conv.weight"
    names = [each.name for each in (inner if inside else found.graph).initializer]
    assert names == ["conv.bias", "conv.weight"]
    assert ort.InferenceSession(found.SerializeToString()).get_outputs()[0].name == "y"


def test_what_is_not_written_as_it_should_be_is_noticed(tmp_path: Path) -> None:
    path = saved(one_layer(), tmp_path / "m.onnx")
    rewritten(path)
    place = tmp_path / "out" / "m.onnx"
    result = FoldWeightsPass()(read(path).model)
    good = place.read_bytes()
    for change in (
        lambda proto: proto.graph.node[0].input.__delitem__(2),
        lambda proto: proto.graph.initializer[1].__setattr__("raw_data", bytes(8 * 4 * 3 * 4)),
        lambda proto: proto.graph.initializer.append(numpy_helper.from_array(array(2), "other")),
    ):
        proto = onnx.load_from_string(good)
        change(proto)
        saved(proto, place)
        with pytest.raises(VerificationError, match="is not what was to be written"):
            require_held(result, place)
    place.write_bytes(good[:50])
    with pytest.raises(VerificationError, match="cannot be read back"):
        require_held(result, place)
