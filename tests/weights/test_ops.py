"""Every row of the tables of functions and methods: the weight is found, split to the bit, and folded back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import sample
from tests.weights.rows import ROWS, aten, drawn, each_row, f64
from wnconvert import ApplyPass, FoldPass, apply, find_weighted_ops
from wnconvert.weights import ops

# it is in the table for as long as torch has it
pytestmark = pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated:UserWarning")


def test_no_function_is_untested():
    # aten.einsum takes its operands as one list, see below
    assert {row.target for row in ROWS if not isinstance(row.target, str)} | {aten.einsum.default} == set(ops.FUNCTIONS)


def test_no_method_is_untested():
    assert {row.target for row in ROWS if isinstance(row.target, str)} == set(ops.METHODS)


def test_no_name_is_missing():
    assert {row.name for row in ROWS} == {rule.name for rule in (*ops.FUNCTIONS.values(), *ops.METHODS.values())}


@each_row
def test_the_weight_is_found_with_its_output_dims(row):
    model, _ = row.build()
    (found,) = find_weighted_ops(model)
    assert (found.fqn, found.ops, found.shape) == ("w", (row.name,), row.shape)
    assert found.output_dims == row.dims


@pytest.mark.parametrize("row", {(row.name, row.shape): row for row in ROWS}.values(), ids=lambda row: row.id)
def test_each_output_depends_on_one_index_of_an_output_dim(row):
    model, inputs = row.build()
    if row.dims is None:
        channels = outputs_of(model, inputs)[0].shape[1]
        assert channels not in row.shape[:2], "there may be an output dim after all"
        return
    assert set(row.dims) <= _single_dims(model, inputs)


def _single_dims(model: GraphModule, inputs: tuple[Tensor, ...]) -> set[int]:
    """The dims of the weight along which each output element depends on one index at most, and all are used."""
    shape = model.w.shape
    weight_dims = len(shape)

    def output(weight: Tensor) -> Tensor:
        model.w.data = weight.view(shape)
        return outputs_of(model, inputs)[0].flatten()

    # an output is affine in the weight: look at what each single element of it reaches
    offset = output(torch.zeros(shape, dtype=f64))
    columns = [(output(element) - offset).abs() > 1e-12 for element in torch.eye(shape.numel(), dtype=f64)]
    uses = torch.stack(columns, 1).unflatten(1, shape)
    singles = set()
    for dim in range(weight_dims):
        others = [d + 1 for d in range(weight_dims) if d != dim]
        along = uses.any(others) if others else uses
        if int(along.sum(1).max()) == 1:
            singles.add(dim)
    return singles


def test_single_dims_tells_the_output_dim_of_a_linear():
    assert _single_dims(*ROWS[0].build()) == {0}


@each_row
def test_a_round_trip_gives_the_same_outputs_and_the_very_same_graph(row):
    model, inputs = row.build()
    before, expected = Snapshot(model), outputs_of(model, inputs)
    result = ApplyPass("weight_norm").call(model)
    assert result.modified
    assert "w" not in dict(model.named_parameters())
    assert_same_outputs(outputs_of(model, inputs), expected)
    assert FoldPass().call(model).modified
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, inputs), expected)


@pytest.mark.parametrize("row", {row.target: row for row in ROWS}.values(), ids=lambda row: row.id)
def test_the_gradient_reaches_both_parts(row):
    model, inputs = row.build()
    if row.target is aten._embedding_bag_forward_only.default:
        pytest.skip("torch has no derivative for it")
    ApplyPass("weight_norm").call(model)
    model(*inputs).pow(3).sum().backward()
    assert model.w_g.grad.count_nonzero() > 0
    assert model.w_v.grad.count_nonzero() > 0


# einsum


def test_einsum_takes_its_operands_as_a_list():
    graph = Graph()
    x, root = graph.placeholder("x"), nn.Module()
    root.w = nn.Parameter(sample(5, 3))
    call = graph.call_function(aten.einsum.default, ("bi,oi->bo", [x, graph.get_attr("w")]))
    graph.output(call)
    model = GraphModule(root, graph)
    before, expected = Snapshot(model), outputs_of(model, (drawn(2, 3),))
    (found,) = find_weighted_ops(model)
    assert (found.ops, found.output_dims) == (("einsum",), (0,))
    ApplyPass().call(model)
    assert_same_outputs(outputs_of(model, (drawn(2, 3),)), expected)
    FoldPass().call(model)
    before.assert_same(model)


class _Einsum(nn.Module):
    def __init__(self, equation, *shape):
        super().__init__()
        self.equation = equation
        self.w = nn.Parameter(sample(*shape))

    def forward(self, x):
        return torch.einsum(self.equation, x, self.w)


def test_einsum_with_an_ellipsis_in_the_weight_has_no_known_output_dims():
    model = _Einsum("bi,...oi->...bo", 5, 3)
    (found,) = find_weighted_ops(model)
    assert (found.ops, found.output_dims) == (("einsum",), None)


@pytest.mark.parametrize("dims", [lambda x: x.dim() - 1, lambda x: ([1], x.tolist()), lambda x: ([1], [x.dim()])])
def test_dims_that_are_not_static_are_unknown(dims):
    class Contraction(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(sample(5, 3))

        def forward(self, x):
            return torch.tensordot(x, self.w, dims(x))

    (found,) = find_weighted_ops(Contraction())
    assert (found.ops, found.output_dims) == (("tensordot",), None)


def test_einsum_with_lists_of_numbers_is_found():
    class Sublists(_Einsum):
        def forward(self, x):
            return torch.einsum(x, [0, 1], self.w, [2, 1], [0, 2])

    model = Sublists("", 5, 3)
    expected = outputs_of(model, (drawn(2, 3),))
    converted, report = apply(model)
    assert [entry.op for entry in report.converted] == ["einsum"]
    assert_same_outputs(outputs_of(converted, (drawn(2, 3),)), expected)
