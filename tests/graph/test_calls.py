"""What the calls of a graph are by themselves."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.fx import Graph, Node, symbolic_trace

from tests.helpers import sample
from wnconvert.graph import calls

aten = torch.ops.aten


def _permutation(expression: Any, ndim: int) -> tuple[int, ...] | None:
    node = symbolic_trace(expression).graph.output_node().args[0]
    assert calls.is_permutation(node)
    return calls.permutation_of(node, ndim)


def _of_three(x):
    return x.permute(2, 0, 1)


def _of_size(x):
    return x.transpose(0, x.dim() - 1)


def test_a_permutation_gives_the_order_of_the_input_dims():
    assert _permutation(_of_three, 3) == (2, 0, 1)
    assert sample(2, 3, 4).permute(2, 0, 1).shape == tuple((2, 3, 4)[dim] for dim in (2, 0, 1))


def test_a_permutation_that_is_not_static_is_none():
    assert _permutation(_of_size, 3) is None


def test_a_reshape_is_no_permutation():
    node = symbolic_trace(lambda x: x.reshape(3, 2)).graph.output_node().args[0]
    assert not calls.is_permutation(node)


def _node(function: Any) -> Node:
    return symbolic_trace(function).graph.output_node().args[0]


def test_an_argument_is_read_by_position_by_keyword_or_by_default():
    assert calls.argument(_node(lambda x: x.sum(1)), 1, "dim") == 1
    assert calls.argument(_node(lambda x: x.sum(dim=2)), 1, "dim") == 2
    assert calls.argument(_node(lambda x: x.sum()), 1, "dim", 3) == 3


IN_PLACE = {
    "method": lambda x: x.add_(1),
    "inplace": lambda x: F.relu(x, inplace=True),
    "out": lambda x: torch.add(x, 1, out=x),
    "function": lambda x: torch.relu_(x),
    "aten": lambda x: aten.add_.Tensor(x, x),
}
NOT_IN_PLACE = {
    "method": lambda x: x.add(1),
    "operator": lambda x: x + 1,
    "magic": lambda x: x.__add__(1),
    "inplace": lambda x: F.relu(x, inplace=False),
    "function": lambda x: torch.relu(x),
    "aten": lambda x: aten.add.Tensor(x, x),
    "and": lambda x: operator.and_(x, x),
}


@pytest.mark.parametrize("target", [operator.iadd, operator.setitem, operator.imatmul])
def test_an_in_place_operator_is_known(target):
    graph = Graph()
    x = graph.placeholder("x")
    assert calls.is_in_place(graph.call_function(target, (x, x)))


@pytest.mark.parametrize("case", IN_PLACE)
def test_an_in_place_call_is_known(case):
    assert calls.is_in_place(_node(IN_PLACE[case]))


@pytest.mark.parametrize("case", NOT_IN_PLACE)
def test_another_call_is_not_in_place(case):
    assert not calls.is_in_place(_node(NOT_IN_PLACE[case]))


ROWS = {
    "function": (F.embedding, ("x", "w", 3, 1.0, 2.0, False, True), {}),
    "function by name": (F.embedding, ("x", "w"), {"padding_idx": 3, "max_norm": 1.0, "sparse": True}),
    "bag": (F.embedding_bag, ("x", "w", None, 1.0, 2.0, False, "mean", True, None, False, 3), {}),
    "built-in function": (torch.embedding, ("w", "x", 3, False, True), {}),
    "built-in bag": (torch.embedding_bag, ("w", "x", "o", False, 0, True, None, False, 3), {}),
    "overload": (aten.embedding.default, ("w", "x", 3, False, True), {}),
    "overload by name": (aten.embedding.default, ("w", "x"), {"padding_idx": 3, "sparse": True}),
    "overload of a bag": (aten.embedding_bag.padding_idx, ("w", "x", "o", False, 0, True, None, False, 3), {}),
}


@pytest.mark.parametrize("case", ROWS)
def test_an_argument_is_read_by_its_name_wherever_it_stands(case):
    target, args, kwargs = ROWS[case]
    node = Graph().call_function(target, args, kwargs)
    names = ("padding_idx", "sparse", "max_norm")
    given = [calls.named_argument(node, name) for name in names]
    assert given == [3, True, 1.0 if target in (F.embedding, F.embedding_bag) else None]
    assert calls.named_argument(Graph().call_function(target, args[:2]), "sparse") is None


def test_what_does_not_name_its_parameters_is_given_nothing():
    graph = Graph()
    assert calls.named_argument(graph.call_function(operator.add, (1, 2)), "other") is None
    assert calls.named_argument(graph.call_method("add", (graph.placeholder("x"), 2)), "other") is None


def test_one_of_several_results_is_no_view_of_them():
    graph = Graph()
    x = graph.placeholder("x")
    for op, args, view in (
        (torch.ops.aten._native_batch_norm_legit.no_stats, (x, None, None, True, 0.0, 1e-5), False),
        (torch.ops.aten.split.Tensor, (x, 2), True),
    ):
        assert calls.is_view(graph.call_function(operator.getitem, (graph.call_function(op, args), 0))) is view
