"""The snapshot is seen to fail on each fact that it guards."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace

from tests.graph.snapshot import Snapshot, assert_same_outputs, graph_listing, outputs_of


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.bias = self.first.bias
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.second(self.first(x) + 1))


def _rename_key(model):
    model.first.register_parameter("other", model.first._parameters.pop("weight"))


def _reorder_keys(model):
    model.first._parameters.update(weight=model.first._parameters.pop("weight"))


def _untie(model):
    model.second.bias = nn.Parameter(model.second.bias.detach().clone())


def _freeze(model):
    model.first.weight.requires_grad_(False)


def _change_a_bit(model):
    model.first.weight.data[0, 0] = torch.nextafter(model.first.weight.data[0, 0], torch.tensor(9.0))


def _change_strides(model):
    model.first.weight = nn.Parameter(model.first.weight.detach().t().contiguous().t())


def _make_a_buffer(model):
    weight = model.first.weight.detach().requires_grad_()
    del model.first.weight
    model.first.register_buffer("weight", weight)


def _make_transient(model):
    model.norm._non_persistent_buffers_set.add("running_mean")


def _change_the_type(model):
    model.first.__class__ = nn.modules.linear.NonDynamicallyQuantizableLinear


def _evaluate(model):
    model.norm.eval()


def _change_the_dtype(model):
    model.first.double()


def _change_an_argument(model):
    next(node for node in model.graph.nodes if node.target is operator.add).update_arg(1, 2)


def _rename_a_node(model):
    next(node for node in model.graph.nodes if node.target is operator.add)._rename("sum_1")


CHANGES = [
    *(_rename_key, _reorder_keys, _untie, _freeze, _change_a_bit, _change_strides, _make_a_buffer, _make_transient),
    *(_change_the_type, _evaluate, _change_the_dtype, _change_an_argument, _rename_a_node),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_change_is_seen(change):
    model = symbolic_trace(_Net())
    snapshot = Snapshot(model)
    change(model)
    with pytest.raises(AssertionError):
        snapshot.assert_same(model)


def test_no_change_is_seen_in_a_copy():
    model = symbolic_trace(_Net())
    Snapshot(model).assert_same(copy.deepcopy(model))


def test_a_listing_names_nodes():
    assert graph_listing(symbolic_trace(_Net()))[2] == ("add", "call_function", operator.add, ("%first", 1), {})


def test_a_listing_may_number_nodes():
    model = symbolic_trace(_Net())
    listing = graph_listing(model, names=False)
    _rename_a_node(model)
    assert graph_listing(model, names=False) == listing
    _change_an_argument(model)
    assert graph_listing(model, names=False) != listing


def test_outputs_must_have_the_same_bits():
    expected = outputs_of(nn.Linear(3, 3), (torch.ones(2, 3),))
    assert_same_outputs([x.clone() for x in expected], expected)
    for actual in ([expected[0].nextafter(torch.tensor(9.0))], [], expected * 2):
        with pytest.raises(AssertionError):
            assert_same_outputs(actual, expected)


def test_outputs_of_zeros_show_nothing():
    with pytest.raises(AssertionError, match="shows nothing"):
        assert_same_outputs([torch.zeros(2)], [torch.zeros(2)])
