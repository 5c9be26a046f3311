"""Where a folded weight lives, what it is called, and what becomes of its parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.snapshot import assert_same_outputs, outputs_of
from tests.weights.nets import One, X, param
from wnconvert import FoldPass
from wnconvert.tracing.tracing import trace


def folded(expression, **contents):
    """Fold ``linear(x, expression(self))``, with the same outputs, and return the model and the report."""
    forward = contents.pop("forward", None) or (lambda self, x: F.linear(x, expression(self)))
    buffers = contents.pop("buffers", {})
    model = One(forward, **contents)
    for name, (tensor, persistent) in buffers.items():
        model.register_buffer(name, tensor, persistent)
    model = trace(model.eval())
    expected = outputs_of(model, (X,))
    report = FoldPass().call(model).report
    assert_same_outputs(outputs_of(model, (X,)), expected)
    return model, report


def test_a_weight_of_a_single_tensor_takes_its_place():
    model, report = folded(lambda self: F.normalize(self.w), a=param(1), w=param(5, 3), b=param(1))
    assert list(model.state_dict()) == ["a", "w", "b"]
    assert [(entry.fqn, entry.scheme, entry.keys) for entry in report.converted] == [("w", "expression", ("w",))]


def test_parts_named_after_a_weight_give_it_its_name():
    model, report = folded(lambda self: self.w_v * self.w_g, w_g=param(5, 1), w_v=param(5, 3))
    assert list(model.state_dict()) == ["w"]
    assert [(entry.fqn, entry.scheme) for entry in report.converted] == [("w", "weight_norm")]


def test_a_product_of_two_factors_becomes_weight():
    model, _ = folded(lambda self: self.b @ self.a, b=param(5, 2), a=param(2, 3))
    assert list(model.state_dict()) == ["weight"]
    assert model.weight.shape == (5, 3)
    assert isinstance(model.weight, nn.Parameter)


def test_a_low_rank_update_takes_the_place_of_what_it_updates():
    model, _ = folded(lambda self: self.w + self.b @ self.a * 0.5, w=param(5, 3), b=param(5, 2), a=param(2, 3))
    assert list(model.state_dict()) == ["w"]


def test_a_tensor_that_is_read_elsewhere_stays():
    def forward(self, x):
        return F.linear(x, F.normalize(self.w)) + self.w.sum()

    model, report = folded(None, forward=forward, w=param(5, 3))
    assert list(model.state_dict()) == ["w", "w_folded"]
    assert report.converted[0].fqn == "w_folded"


def test_a_product_whose_name_is_taken_gets_a_suffix():
    def forward(self, x):
        return F.linear(F.linear(x, self.b @ self.a), self.weight)

    model, report = folded(None, forward=forward, b=param(5, 2), a=param(2, 3), weight=param(4, 5))
    assert report.converted[0].fqn.endswith("_folded")
    assert set(model.state_dict()) == {"weight", report.converted[0].fqn}


def test_a_part_that_is_read_elsewhere_stays():
    def forward(self, x):
        return F.linear(x, self.w_v * self.w_g) * self.w_g.sum()

    model, _ = folded(None, forward=forward, w_g=param(5, 1), w_v=param(5, 3))
    assert set(model.state_dict()) == {"w_g", "w"}


def test_the_bias_of_the_holder_stays():
    model, _ = folded(
        None,
        forward=lambda self, x: F.linear(x, F.normalize(self.layer.weight), self.layer.bias),
        layer=nn.Linear(3, 5),
    )
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
    assert type(model.layer) is nn.Linear


@pytest.mark.parametrize("trains", [False, True])
def test_a_weight_trains_if_a_part_did(trains):
    model, _ = folded(
        lambda self: self.w * self.s, w=param(5, 3, requires_grad=False), s=param(5, 1, requires_grad=trains)
    )
    assert isinstance(model.w, nn.Parameter)
    assert model.w.requires_grad is trains


@pytest.mark.parametrize("persistent", [False, True])
def test_an_expression_of_buffers_is_a_buffer_as_persistent_as_they_were(persistent):
    model, _ = folded(lambda self: F.normalize(self.w), buffers={"w": (torch.randn(5, 3), persistent)})
    assert "w" in model._buffers
    assert ("w" in model.state_dict()) is persistent


def test_a_parameter_with_a_buffer_is_a_parameter():
    model, _ = folded(lambda self: self.w * self.mask, w=param(5, 3), buffers={"mask": (torch.ones(5, 3), True)})
    assert isinstance(model.w, nn.Parameter)
    assert list(model.state_dict()) == ["w"]


def test_an_expression_at_two_sites_is_placed_once():
    def forward(self, x):
        w = F.normalize(self.w)
        return F.linear(x, w) + x @ w.t()

    model, report = folded(None, forward=forward, w=param(5, 3))
    assert list(model.state_dict()) == ["w"]
    assert [entry.op for entry in report.converted] == ["linear, matmul"]


def test_tied_parts_give_a_tied_weight():
    w = param(3, 3)

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = w

        def forward(self, x):
            return F.linear(x, F.normalize(self.w))

    model = trace(nn.Sequential(Half(), Half()).eval())
    expected = outputs_of(model, (X,))
    FoldPass().call(model)
    assert_same_outputs(outputs_of(model, (X,)), expected)
    assert list(model.state_dict()) == ["0.w", "1.w"]
    assert model.get_parameter("0.w") is model.get_parameter("1.w")


def test_the_value_shares_no_memory_with_what_stays():
    def forward(self, x):
        return F.linear(x, self.w.abs().view(5, 3)) + self.w.sum()

    model, _ = folded(None, forward=forward, w=param(15))
    storages = [tensor.untyped_storage().data_ptr() for tensor in model.parameters()]
    assert len(set(storages)) == len(storages) == 2
