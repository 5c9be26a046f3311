"""What is known of ONNX operators agrees with what ONNX says of them."""

from __future__ import annotations

import onnx

from wnconvert.onnx_files.ops import BIASES, CONTROL, MOVES, PURE, RANDOM, STORED, WEIGHTS

SCHEMAS = {schema.name: schema for schema in onnx.defs.get_all_schemas() if schema.domain == ""}


def test_every_name_is_that_of_an_operator() -> None:
    assert {*WEIGHTS, *CONTROL, *RANDOM, *MOVES, *STORED, *PURE} <= {*SCHEMAS}


def test_operands_have_the_names_that_onnx_gives_them() -> None:
    for op, operands in WEIGHTS.items():
        for index, name in operands.items():
            assert SCHEMAS[op].inputs[index].name == name
    assert all(index in WEIGHTS[op] for op, index in BIASES)


def test_what_is_evaluated_is_deterministic_and_holds_no_graph() -> None:
    assert not PURE & (RANDOM | CONTROL)
    kind = onnx.defs.OpSchema.NodeDeterminism.NonDeterministic
    for name in PURE:
        assert SCHEMAS[name].node_determinism != kind
        assert all(a.type != onnx.defs.OpSchema.AttrType.GRAPH for a in SCHEMAS[name].attributes.values())
    assert MOVES <= PURE
