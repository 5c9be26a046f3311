"""The pass: what is computed becomes what is stored, and all else stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from tests.onnx_files.graphs import array, convolution, loaded, model, node, normed, one_layer, ops, parts
from wnconvert import Selection
from wnconvert.onnx_files.folding import FoldResult, FoldWeightsPass
from wnconvert.reasons import Why


def folded(proto: onnx.ModelProto, **selection: object) -> tuple[ir.Graph, FoldResult]:
    read = loaded(proto)
    result = FoldWeightsPass(Selection(**selection) if selection else None)(read)
    assert isinstance(result, FoldResult)
    return read.graph, result


def test_a_weight_takes_the_place_of_what_computed_it() -> None:
    graph, result = folded(one_layer())
    assert ops(graph) == ["Conv"]
    assert list(graph.initializers) == ["conv.bias", "conv.weight"]
    (entry,) = result.report.converted
    assert (entry.fqn, entry.op, entry.scheme) == ("conv.weight", "Conv", "weight_norm")
    assert entry.keys == ("conv.weight_v", "conv.weight_g")
    assert result.modified
    assert result.report.skipped == ()


def test_a_second_time_there_is_nothing_to_do() -> None:
    graph, _ = folded(one_layer())
    result = FoldWeightsPass()(ir.Model(graph, ir_version=9))
    assert not result.modified
    assert [entry.reason.why for entry in result.report.skipped] == [Why.ALREADY_PLAIN]


def test_it_is_a_pass_among_others() -> None:
    from onnx_ir.passes.common import TopologicalSortPass

    result = ir.passes.PassManager([FoldWeightsPass(), TopologicalSortPass()])(loaded(one_layer()))
    assert result.modified
    assert ops(result.model.graph) == ["Conv"]


def test_all_else_stays_node_for_node() -> None:
    nodes = [
        node("Neg", ["x"], "before"),
        *normed("conv.weight_g", "conv.weight_v", "w"),
        convolution(x="before", y="h"),
        node("ReduceL2", ["conv.bias"], "not a weight", keepdims=0),
        node("Add", ["h", "not a weight"], "y"),
    ]
    nodes[0].doc_string = "about it"
    graph, _ = folded(model(nodes, parts()))
    assert [(each.op_type, each.name) for each in graph] == [
        ("Neg", "node_before"),
        ("Conv", "the_h"),
        ("ReduceL2", "node_not a weight"),
        ("Add", "node_y"),
    ]
    assert graph[0].doc_string == "about it"


def test_a_weight_at_two_sites_is_stored_once() -> None:
    nodes = [*normed("conv.weight_g", "conv.weight_v", "w"), convolution(y="h", x="x"), convolution(x="x", y="k")]
    graph, result = folded(model([*nodes, node("Add", ["h", "k"], "y")], parts()))
    assert list(graph.initializers) == ["conv.bias", "conv.weight"]
    assert len(result.report.converted) == 1


def test_a_weight_that_the_exporter_computes_at_each_call_is_stored_once() -> None:
    names = "conv.weight_g", "conv.weight_v"
    nodes = [*normed(*names, "w"), convolution(y="h"), *normed(*names, "w2"), convolution("w2", x="x", y="k")]
    graph, _ = folded(model([*nodes, node("Add", ["h", "k"], "y")], parts()))
    assert ops(graph) == ["Conv", "Conv", "Add"]
    assert list(graph.initializers) == ["conv.bias", "conv.weight"]


def test_an_embedding_and_its_tied_head_stay_tied() -> None:
    nodes = [
        node("Mul", ["emb.weight_v", "emb.weight_g"], "w"),
        node("MatMul", ["x", "w"], "h"),
        node("Transpose", ["w"], "t", perm=[1, 0]),
        node("MatMul", ["h", "t"], "y"),
    ]
    graph, result = folded(model(nodes, {"emb.weight_v": array(3, 4), "emb.weight_g": array(3, 1)}, {"x": ("n", 3)}))
    assert ops(graph) == ["MatMul", "Transpose", "MatMul"]
    assert list(graph.initializers) == ["emb.weight"]
    assert [entry.op for entry in result.report.converted] == ["MatMul"]


def test_what_something_else_reads_stays_and_keeps_its_name() -> None:
    nodes = [
        node("Mul", ["conv.weight", "scale"], "w"),
        convolution(y="h"),
        node("ReduceMax", ["conv.weight"], "most", keepdims=0),
        node("Add", ["h", "most"], "y"),
    ]
    tensors = {"conv.weight": array(8, 4, 3), "scale": np.float32(2), "conv.bias": array(8)}
    graph, result = folded(model(nodes, tensors))
    assert list(graph.initializers) == ["conv.weight", "conv.bias", "conv.weight_folded"]
    assert result.report.converted[0].fqn == "conv.weight_folded"


def test_a_weight_standardized_from_one_tensor_takes_its_name() -> None:
    nodes = [node("Mul", ["conv.weight", "scale"], "w"), convolution()]
    graph, _ = folded(model(nodes, {"conv.weight": array(8, 4, 3), "scale": np.float32(2), "conv.bias": array(8)}))
    assert list(graph.initializers) == ["conv.bias", "conv.weight"]
    np.testing.assert_array_equal(graph.initializers["conv.weight"].const_value.numpy(), array(8, 4, 3) * 2)


def test_a_computed_bias_is_stored_too() -> None:
    nodes = [node("Mul", ["conv.bias", "scale"], "b"), convolution("conv.weight", bias="b")]
    tensors = {"conv.weight": array(8, 4, 3), "scale": np.float32(2), "conv.bias": array(8)}
    graph, result = folded(model(nodes, tensors))
    assert list(graph.initializers) == ["conv.weight", "conv.bias"]
    assert [entry.fqn for entry in result.report.converted] == ["conv.bias"]


def test_a_weight_that_is_an_output_too_is_computed_for_that() -> None:
    proto = one_layer()
    proto.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (8, 4, 3)))
    graph, _ = folded(proto)
    assert ops(graph) == ["ReduceL2", "Div", "Mul", "Conv"]
    assert graph.node("the_y").inputs[1].name == "conv.weight"


def test_plain_weights_get_their_names_back_where_the_exporter_took_them() -> None:
    two = [
        *normed("a.weight_g", "a.weight_v", "w"),
        convolution(bias="a.bias", y="h"),
        convolution("mul_3", "b.bias", "h"),
    ]
    tensors = parts("a") | {"mul_3": array(8, 8, 3), "b.bias": array(8)}
    graph, result = folded(model(two, tensors))
    assert result.renamed == {"mul_3": "b.weight"}
    assert sorted(graph.initializers) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    assert [entry.fqn for entry in result.report.skipped] == ["b.weight"]


@pytest.mark.parametrize("name", ["kernel", "w_1"])
def test_a_parameter_of_the_model_itself_keeps_its_name_beside_the_bias_of_a_layer(name: str) -> None:
    nodes = [
        *normed("a.weight_g", "a.weight_v", "w"),
        convolution(bias="a.bias", y="h"),
        convolution(name, "b.bias", "h"),
    ]
    proto = model(nodes, parts("a") | {name: array(8, 8, 3), "b.bias": array(8)})
    said = proto.graph.value_info.add(name=name)
    said.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    said.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value="PARAMETER")
    graph, result = folded(proto)
    assert not result.renamed
    assert sorted(graph.initializers) == ["a.bias", "a.weight", "b.bias", name]


def test_a_weight_that_is_computed_in_two_shapes_is_stored_in_both() -> None:
    nodes = [
        *normed("conv.weight_g", "conv.weight_v", "w"),
        convolution(y="h"),
        *normed("conv.weight_g", "conv.weight_v", "again"),
        node("Reshape", ["again", "sizes"], "matrix"),
        node("MatMul", ["matrix", "z"], "product"),
        node("ReduceMax", ["product"], "most", keepdims=0),
        node("Add", ["h", "most"], "y"),
    ]
    proto = model(nodes, parts() | {"sizes": np.array([8, 12])}, {"x": ("batch", 4, "time"), "z": (12, 5)})
    graph, _ = folded(proto)
    shapes = {name: value.const_value.numpy().shape for name, value in graph.initializers.items()}
    assert shapes == {"conv.bias": (8,), "conv.weight": (8, 4, 3), "conv.weight_1": (8, 12)}


def test_the_user_chooses() -> None:
    two = [
        *normed("a.weight_g", "a.weight_v", "v"),
        convolution("v", "a.bias", y="h"),
        *normed("b.weight_g", "b.weight_v", "w"),
        convolution("w", "b.bias", "h"),
    ]
    proto = model(two, parts("a") | parts("b", of=8))
    graph, result = folded(proto, include=("b",))
    assert ops(graph) == ["ReduceL2", "Div", "Mul", "Conv", "Conv"]
    assert [entry.fqn for entry in result.report.converted] == ["b.weight"]
    assert [(entry.fqn, entry.reason.why) for entry in result.report.skipped] == [("a.weight", Why.NOT_CHOSEN)]


def test_weights_in_the_body_of_a_loop_are_stored_where_their_parts_were() -> None:
    body = helper.make_graph(
        [
            *normed("conv.weight_g", "conv.weight_v", "w"),
            convolution(x="state", y="next"),
            node("Identity", ["go"], "on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    proto = model([node("Loop", ["n", "", "x"], "y", body=body)], parts(out=4) | {"n": np.array(2)})
    graph, result = folded(proto)
    inner = graph[0].attributes["body"].as_graph()
    assert ops(inner) == ["Conv", "Identity"]
    assert list(inner.initializers) == []
    assert list(graph.initializers) == ["conv.bias", "n", "conv.weight"]
    assert result.modified


def test_what_cannot_be_computed_is_skipped_with_the_reason() -> None:
    nodes = [node("Reshape", ["conv.weight_v", "shape"], "r"), node("Neg", ["r"], "w"), convolution()]
    graph, result = folded(model(nodes, parts() | {"shape": np.array([7, 7])}))
    assert ops(graph) == ["Reshape", "Neg", "Conv"]
    assert [entry.reason.why for entry in result.report.skipped] == [Why.FAILS]
    assert not result.modified


def test_values_without_names_are_refused() -> None:
    read = loaded(one_layer())
    read.graph[0].outputs[0].name = None
    with pytest.raises(ir.passes.PreconditionError):
        FoldWeightsPass()(read)


def test_a_graph_that_reads_what_is_not_there_is_no_result() -> None:
    read = loaded(one_layer())
    stray = ir.Value(name="stray")
    read.graph.node("the_y").replace_input_with(0, stray)
    with pytest.raises(ir.passes.PostconditionError):
        FoldWeightsPass().ensures(read)
