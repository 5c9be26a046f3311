"""What stands against replacing a weight is the reason in the report."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule

from tests.weights.nets import One, X, param, reasons, round_trip
from wnconvert import NothingToConvertError, apply


class Lookup(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.e = nn.Embedding(6, 3, **options)
        self.layer = nn.Linear(3, 2)

    def forward(self, ids):
        return self.layer(self.e(ids))


def test_max_norm_is_skipped():
    skipped, converted = reasons(Lookup(max_norm=1.0))
    assert skipped == {"e.weight": "max_norm rewrites the weight in every forward"}
    assert converted == ["layer.weight"]


def test_sparse_is_skipped():
    skipped, converted = reasons(Lookup(sparse=True))
    assert "sparse" in skipped["e.weight"]
    assert converted == ["layer.weight"]


@pytest.mark.parametrize("option", ["max_norm", "sparse"])
def test_an_option_of_a_function_is_seen(option):
    value = {"max_norm": 1.0, "sparse": True}[option]
    model = One(lambda self, x: F.embedding(x, self.w, **{option: value}), w=param(6, 3))
    skipped, converted = reasons(model)
    assert option in skipped["w"].replace("gradient is ", "")
    assert converted == []


@pytest.mark.parametrize("args", [(None, 1.0), (None, None, 2.0, False, True)], ids=["max_norm", "sparse"])
def test_an_option_of_a_function_given_by_position_is_seen(args):
    model = One(lambda self, x: torch.nn.functional.embedding(x, self.w, *args), w=param(6, 3))
    skipped, converted = reasons(model)
    assert list(skipped) == ["w"]
    assert converted == []


@pytest.mark.parametrize(
    ("target", "args"),
    [(torch.ops.aten.embedding.default, (-1, False, True)), (torch.embedding, (-1, False, True))],
    ids=["overload", "built-in"],
)
def test_an_option_that_a_written_call_gives_by_position_is_seen(target, args):
    root, graph = nn.Module(), Graph()
    root.w = param(6, 3)
    graph.output(graph.call_function(target, (graph.get_attr("w"), graph.placeholder("x"), *args)))
    with pytest.raises(NothingToConvertError, match="sparse"):
        apply(GraphModule(root, graph))


def test_hooks_are_skipped():
    model = One(lambda self, x: self.b(self.a(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    model.a.register_forward_hook(lambda *_: None)
    skipped, converted = reasons(model)
    assert "hooks" in skipped["a.weight"]
    assert converted == ["b.weight"]


def test_a_buffer_as_weight_is_skipped():
    model = One(lambda self, x: F.linear(F.linear(x, self.w), self.b), w=param(3, 3))
    model.register_buffer("b", torch.randn(5, 3))
    skipped, converted = reasons(model)
    assert skipped == {"b": "it is a buffer, which is not trained"}
    assert converted == ["w"]


def test_an_uninitialized_weight_is_skipped():
    model = One(lambda self, x: self.b(self.a(x)), a=nn.Linear(3, 3), b=nn.LazyLinear(3))
    skipped, converted = reasons(model)
    assert skipped == {"b.weight": "it is not initialized yet; run the model once"}
    assert converted == ["a.weight"]


def test_an_uninitialized_parameter_of_a_function_is_skipped():
    model = One(lambda self, x: F.linear(F.linear(x, self.a), self.b), a=param(3, 3), b=nn.UninitializedParameter())
    skipped, converted = reasons(model)
    assert skipped == {"b": "it is not initialized yet; run the model once"}
    assert converted == ["a"]


def test_a_complex_weight_is_skipped():
    model = One(
        lambda self, x: x @ self.w + x @ self.v, w=nn.Parameter(torch.randn(3, 3, dtype=torch.cfloat)), v=param(3, 3)
    )
    skipped, converted = reasons(model)
    assert "complex64" in skipped["w"]
    assert converted == ["v"]


def test_an_integer_weight_is_skipped():
    weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    model = One(lambda self, x: x @ self.w, w=weight)
    skipped, converted = reasons(model)
    assert "int8" in skipped["w"]
    assert converted == []


def test_an_empty_weight_is_skipped():
    model = One(lambda self, x: F.linear(x, self.w), w=nn.Parameter(torch.empty(0, 3)))
    skipped, converted = reasons(model)
    assert skipped == {"w": "it is empty, of shape (0, 3)"}
    assert converted == []


def test_a_weight_inside_an_lstm_is_skipped():
    skipped, converted = reasons(
        One(lambda self, x: self.layer(self.rnn(x)[0]), rnn=nn.LSTM(3, 2), layer=nn.Linear(2, 2))
    )
    assert {"rnn.weight_ih_l0", "rnn.weight_hh_l0"} == set(skipped)
    assert all("'rnn', a LSTM" in reason for reason in skipped.values())
    assert converted == ["layer.weight"]


def test_a_weight_inside_attention_is_skipped():
    model = One(lambda self, x: self.mha(x, x, x)[0], mha=nn.MultiheadAttention(4, 2))
    skipped, converted = reasons(model)
    assert {"mha.in_proj_weight", "mha.out_proj.weight"} == set(skipped)
    assert converted == []


def test_a_weight_that_an_opaque_module_shares_is_skipped():
    model = One(lambda self, x: F.linear(self.rnn(x)[0], self.w), rnn=nn.RNN(3, 3))
    model.w = model.rnn.weight_hh_l0
    skipped, converted = reasons(model)
    assert "also read inside 'rnn'" in skipped["w"]
    assert converted == []


class Loud(nn.Linear):
    def forward(self, input):
        return super().forward(input) * 2


def test_a_subclass_with_another_forward_is_traced_into_or_skipped():
    model = One(lambda self, x: self.layer(self.loud(x)), loud=Loud(3, 3), layer=nn.Linear(3, 2))
    skipped, converted = reasons(model)
    assert {*skipped, *converted} == {"loud.weight", "layer.weight"}
    round_trip(model, X)


def test_a_weight_changed_in_place_is_skipped():
    def forward(self, x):
        self.w.mul_(0.5)
        return F.linear(x, self.w) + F.linear(x, self.v)

    skipped, converted = reasons(One(forward, w=param(3, 3), v=param(3, 3)))
    assert "in place" in skipped["w"]
    assert converted == ["v"]


def test_views_sharing_memory_are_skipped():
    storage = torch.randn(5, 3)
    model = One(lambda self, x: F.linear(x, self.a) + F.linear(x, self.b) + F.linear(x, self.c), c=param(3, 3))
    model.a, model.b = nn.Parameter(storage[:3]), nn.Parameter(storage[2:])
    skipped, converted = reasons(model, copied=False)  # a copy shares no more
    assert skipped["a"] == "it shares memory with 'b', which is another tensor"
    assert skipped["b"] == "it shares memory with 'a', which is another tensor"
    assert converted == ["c"]


def test_a_name_that_is_taken_is_skipped():
    model = One(lambda self, x: F.linear(x, self.w) * self.w_g, w=param(3, 3), w_g=param(3))
    skipped, converted = reasons(model)
    assert skipped["w"] == "its module already has an attribute 'w_g'"
    assert converted == []


def test_a_subclass_of_parameter_is_skipped():
    class Special(nn.Parameter):
        pass

    model = One(lambda self, x: F.linear(x, self.w), w=Special(torch.randn(3, 3)))
    skipped, _ = reasons(model)
    assert skipped == {"w": "it is a Special, not a plain parameter"}


def test_a_hook_based_weight_norm_is_no_plain_weight():
    model = One(lambda self, x: self.a(x), a=nn.utils.weight_norm(nn.Linear(3, 3)))
    skipped, converted = reasons(model)
    assert list(skipped) == ["a.weight"]
    assert converted == []


def test_a_parametrized_module_is_no_plain_weight():
    model = One(lambda self, x: self.a(x), a=nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    skipped, converted = reasons(model)
    assert len(skipped) == 1
    assert "already" in next(iter(skipped.values()))
    assert converted == []


def test_non_finite_weights_are_skipped_with_the_reason():
    model = One(lambda self, x: F.linear(x, self.w), w=nn.Parameter(torch.full((3, 3), float("inf"))))
    skipped, _ = reasons(model)
    assert skipped == {"w": "it holds non-finite values"}
