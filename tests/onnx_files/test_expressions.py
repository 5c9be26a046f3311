"""Which weights are computed, from what, and why some are not evaluated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.onnx_files.graphs import array, convolution, loaded, model, node, normed, one_layer, parts
from wnconvert.onnx_files.expressions import Weight, find_weights, graphs_of
from wnconvert.reasons import Why


def weights_of(proto: onnx.ModelProto) -> dict[str, Weight]:
    return {str(weight.value.name): weight for weight in find_weights(loaded(proto)).weights}


def reason(proto: onnx.ModelProto, name: str = "w") -> tuple[Why, str]:
    found = weights_of(proto)[name].reason
    assert found is not None
    return found.why, str(found)


def test_a_computed_weight_has_its_calls_and_what_they_read() -> None:
    found = weights_of(one_layer())
    assert list(found) == ["w", "conv.bias"]
    weight = found["w"]
    assert weight.reason is None
    assert [each.op_type for each in weight.nodes] == ["ReduceL2", "Div", "Mul"]
    assert {leaf.name for leaf in weight.leaves} == {"conv.weight_g", "conv.weight_v"}
    assert (weight.ops, weight.operand, weight.is_bias) == ("Conv", "W", False)
    assert found["conv.bias"].is_bias


def test_a_stored_weight_is_plain() -> None:
    assert reason(model([convolution("conv.weight_v")], parts()), "conv.weight_v")[0] is Why.ALREADY_PLAIN


def test_what_the_input_goes_into_is_no_weight() -> None:
    proto = model([node("MatMul", ["x", "x"], "y")], {}, {"x": (3, 3)})
    assert weights_of(proto) == {}


def test_tables_of_numbers_are_no_weights() -> None:
    nodes = [node("Gather", ["table", "i"], "row"), node("Cast", ["row"], "y", to=TensorProto.FLOAT)]
    proto = model(nodes, {"table": np.arange(4)}, {"x": (1,)})
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, ("n",)))
    assert weights_of(proto) == {}


def test_random_weights_are_refused() -> None:
    nodes = [
        node("RandomNormal", [], "noise", shape=[8, 4, 3]),
        node("Add", ["conv.weight_v", "noise"], "w"),
        convolution(),
    ]
    why, text = reason(model(nodes, parts()))
    assert (why, text) == (Why.RANDOM, "it is random (RandomNormal)")


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [node("Identity", ["conv.weight_v"], "inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    condition = node("Constant", [], "yes", value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    choice = node("If", ["yes"], "w", then_branch=branch, else_branch=branch)
    why, text = reason(model([condition, choice, convolution()], parts()))
    assert (why, text) == (Why.OPAQUE, "inside 'node_w', a If that the graph does not look into")


@pytest.mark.parametrize("domain", ["", "com.microsoft", "my.own"])
def test_ops_that_nobody_knows_are_refused(domain: str) -> None:
    nodes = [helper.make_node("Frobnicate", ["conv.weight_v"], ["w"], domain=domain), convolution()]
    why, text = reason(model(nodes, parts()))
    assert why is Why.FAILS
    assert "Frobnicate is no operator that is known" in text


def test_initializers_that_callers_may_replace_are_no_constants() -> None:
    proto = one_layer()
    proto.graph.input.append(helper.make_tensor_value_info("conv.weight_g", TensorProto.FLOAT, (8, 1, 1)))
    why, text = reason(proto)
    assert why is Why.NOT_COMPUTED
    assert "'conv.weight_g', which callers may replace" in text


def test_weights_that_are_stored_in_another_type_stay_so() -> None:
    tensors = parts() | {
        "w8": array(8, 4, 3).astype(np.int8),
        "scale": np.float32(0.1),
        "half": array(8, 4, 3).astype("f2"),
    }
    quantized = model([node("DequantizeLinear", ["w8", "scale"], "w"), convolution()], tensors)
    assert reason(quantized) == (Why.ALREADY_COMPUTED, "already quantized")
    half = model([node("Cast", ["half"], "w", to=TensorProto.FLOAT), convolution()], tensors)
    assert reason(half) == (Why.ALREADY_COMPUTED, "already cast from its stored dtype")


def test_another_arrangement_of_a_stored_weight_is_computed_unless_it_is_tied() -> None:
    nodes = [node("Transpose", ["fc.weight"], "w", perm=[1, 0]), node("MatMul", ["x", "w"], "y")]
    alone = model(nodes, {"fc.weight": array(3, 4)}, {"x": ("n", 4)})
    assert weights_of(alone)["w"].reason is None
    tied = model(
        [*nodes[:1], node("MatMul", ["x", "w"], "h"), node("MatMul", ["h", "fc.weight"], "y")],
        {"fc.weight": array(3, 4)},
        {"x": ("n", 4)},
    )
    assert reason(tied)[0] is Why.ALREADY_PLAIN


def test_an_arrangement_of_a_computed_weight_belongs_to_that() -> None:
    nodes = [
        node("Mul", ["emb.weight_v", "emb.weight_g"], "w"),
        node("MatMul", ["x", "w"], "h"),
        node("Transpose", ["w"], "t", perm=[1, 0]),
        node("MatMul", ["h", "t"], "y"),
    ]
    found = weights_of(model(nodes, {"emb.weight_v": array(3, 4), "emb.weight_g": array(3, 1)}, {"x": ("n", 3)}))
    assert found["t"].base is found["w"]


def test_weights_that_share_calls_are_one_group_and_their_leaves_their_own() -> None:
    nodes = [
        node("ReduceL2", ["shared"], "length", keepdims=1),
        *(node("Div", [f"{name}.weight", "length"], f"w_{name}") for name in "ab"),
        node("MatMul", ["x", "w_a"], "h"),
        node("MatMul", ["h", "w_b"], "y"),
    ]
    tensors = {"shared": array(2, 2), "a.weight": array(4, 4), "b.weight": array(4, 4)}
    found = find_weights(loaded(model(nodes, tensors, {"x": ("n", 4)})))
    assert [[weight.value.name for weight in group] for group in found.groups] == [["w_a", "w_b"]]
    assert [[leaf.name for leaf in weight.leaves] for weight in found.weights] == [["a.weight"], ["b.weight"]]
    apart = model(
        [
            *normed("conv.weight_g", "conv.weight_v", "w"),
            convolution(),
        ],
        parts(),
    )
    assert len(find_weights(loaded(apart)).groups) == 1


def test_weights_in_the_graphs_of_nodes_are_found() -> None:
    body = helper.make_graph(
        [*normed("conv.weight_g", "conv.weight_v", "w"), convolution(y="inner")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    proto = model([node("If", ["flag"], "y", then_branch=body, else_branch=body)], parts())
    proto.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, ()))
    found = find_weights(loaded(proto))
    assert [weight.value.name for weight in found.weights if weight.reason is None] == ["w", "w"]
    assert len(list(graphs_of(loaded(proto)))) == 3
