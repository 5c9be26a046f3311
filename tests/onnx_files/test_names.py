"""What folded weights are called."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.onnx_files.graphs import array, convolution, loaded, model, node, normed, parts
from wnconvert.onnx_files.expressions import find_weights
from wnconvert.onnx_files.names import Names, identify, keys_of, told_by_module


def named(proto: onnx.ModelProto) -> tuple[str, str | None]:
    weight = next(each for each in find_weights(loaded(proto)).weights if each.reason is None)
    name, scheme = identify(weight, (8, 4, 3))
    return name, scheme and scheme.name


def renamed(g: str, v: str) -> dict[str, np.ndarray]:
    tensors = parts()
    return {g: tensors["conv.weight_g"], v: tensors["conv.weight_v"], "conv.bias": tensors["conv.bias"]}


@pytest.mark.parametrize(
    ("g", "v", "name", "scheme"),
    [
        ("conv.weight_g", "conv.weight_v", "conv.weight", "weight_norm"),
        ("weight_g", "weight_v", "weight", "weight_norm"),
        ("conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1", "conv.weight", None),
        ("onnx::Mul_12", "conv.weight_orig", "conv.weight", None),
        ("val_3", "conv.weight", "conv.weight", None),
        ("val_3", "onnx::Mul_12", "conv.weight", None),  # by the bias beside it
    ],
)
def test_the_parts_give_the_name(g: str, v: str, name: str, scheme: str | None) -> None:
    assert named(model([*normed(g, v, "w"), convolution()], renamed(g, v))) == (name, scheme)


def test_where_nothing_tells_the_value_keeps_its_name() -> None:
    tensors = renamed("val_3", "val_4")
    tensors["b"] = tensors.pop("conv.bias")
    assert named(model([*normed("val_3", "val_4", "w"), convolution(bias="b")], tensors)) == ("w", None)


def test_a_transposed_weight_says_so() -> None:
    nodes = [
        node("Mul", ["fc.weight_v", "fc.weight_g"], "w"),
        node("Transpose", ["w"], "t"),
        node("MatMul", ["x", "t"], "y"),
    ]
    assert (
        named(model(nodes, {"fc.weight_v": array(3, 4), "fc.weight_g": array(3, 1)}, {"x": ("n", 4)}))[0]
        == "fc.weight.T"
    )
    nodes[0] = node("Mul", ["fc.weight", "val_1"], "w")
    proto = model(nodes, {"fc.weight": array(4, 4), "val_1": array(4, 1)}, {"x": ("n", 4)})
    weight = next(each for each in find_weights(loaded(proto)).weights if each.reason is None)
    assert identify(weight, (4, 4))[0] == "fc.weight.T"


def test_weights_of_recurrent_ops_say_which_operand_they_are() -> None:
    nodes = [
        node("Mul", ["rnn.weight_hh_l0_v", "rnn.weight_hh_l0_g"], "hh"),
        node("Unsqueeze", ["hh", "zero"], "R"),
        node("RNN", ["x", "W", "R"], "y", hidden_size=5),
    ]
    tensors = {"rnn.weight_hh_l0_v": array(5, 5), "rnn.weight_hh_l0_g": array(5, 1), "W": array(1, 5, 4)}
    proto = model(nodes, tensors | {"zero": np.array([0])}, {"x": ("t", "n", 4)})
    weight = next(each for each in find_weights(loaded(proto)).weights if each.reason is None)
    assert identify(weight)[0] == "rnn.weight_hh_l0.R"
    assert keys_of(weight) == ("rnn.weight_hh_l0_v", "rnn.weight_hh_l0_g")


@pytest.mark.parametrize(
    ("op", "scopes", "classes", "name"),
    [
        ("Conv", "['', 'a.b', 'conv1d']", "['N', 'torch.nn.modules.conv.Conv1d', 'aten.conv1d.default']", "a.b.weight"),
        (
            "MatMul",
            "['', 'fc', 'linear']",
            "['N', 'torch.nn.modules.linear.Linear', 'aten.linear.default']",
            "fc.weight.T",
        ),
        ("MatMul", "['', 'fc', 'matmul']", "['N', 'Attention', 'aten.matmul.default']", None),
        ("Conv", "['', 'a', 'conv1d']", "['N', 'timm.layers.StdConv', 'aten.conv1d.default']", None),
        ("Conv", "['', ['a'], 1]", "['N']", None),
        ("Conv", "__import__('os')", "[", None),
    ],
)
def test_what_the_exporter_noted_tells_the_module(op: str, scopes: str, classes: str, name: str | None) -> None:
    made = node(op, ["x", "w"], "y")
    for key, text in (("name_scopes", scopes), ("class_hierarchy", classes)):
        made.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=text)
    read = loaded(model([made], {"w": array(8, 4, 3)})).graph.node(0)
    assert told_by_module(read, 1) == name
    assert told_by_module(read, 0) is None


def test_no_name_is_given_twice() -> None:
    names = Names(loaded(model([convolution("w")], {"w": array(8, 4, 3), "conv.bias": array(8)})))
    assert [names.take("w"), names.take("w"), names.take("new"), names.take("x")] == ["w_1", "w_2", "new", "x_1"]
    names.free("w")
    assert names.is_free("w")
    assert names.take("w") == "w"
