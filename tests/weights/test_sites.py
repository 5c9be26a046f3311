"""Which tensors are weights, what stands against replacing one, and that none is passed over in silence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.models import MODELS, WEIGHTS, build
from tests.weights.nets import One, Two, X, param, reasons, round_trip
from wnconvert import ApplyPass, FoldPass, NothingToConvertError, apply, find_weighted_ops, fold
from wnconvert.tracing.tracing import trace

# which weights


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_of_a_real_architecture_are_found(name):
    assert tuple(weight.fqn for weight in find_weighted_ops(build(name)[0])) == WEIGHTS[name]


def test_finding_changes_nothing():
    model = trace(build("conv")[0])
    before = Snapshot(model)
    find_weighted_ops(model)
    before.assert_same(model)


def test_a_model_without_weighted_ops_has_none():
    assert find_weighted_ops(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))) == []


def test_a_tied_weight_is_found_once_under_its_first_name():
    model = build("transformer")[0]
    weight = find_weighted_ops(model)[0]
    assert (weight.fqn, weight.aliases, weight.ops) == ("tokens.weight", ("head.weight",), ("embedding", "linear"))
    assert weight.output_dims is None


def test_a_weight_at_several_sites_is_found_once():
    model = One(lambda self, x: F.linear(x, self.w) + x @ self.w.t(), w=param(5, 3))
    (weight,) = find_weighted_ops(model)
    assert (weight.ops, weight.output_dims) == (("linear", "matmul"), (0,))


def test_a_module_that_is_called_twice_has_one_weight():
    assert [weight.ops for weight in find_weighted_ops(build("functional")[0])] == [
        ("linear",),
        ("linear",),
        ("matmul",),
    ]


def test_the_operands_of_a_product_of_activations_are_no_weights():
    assert find_weighted_ops(Two(lambda self, x, y: x @ y, w=param(3, 3))) == []


def test_a_product_of_two_parameters_alone_is_no_weighted_op():
    model = One(lambda self, x: x + (self.a @ self.b), a=param(4, 2), b=param(2, 3))
    assert find_weighted_ops(model) == []


def test_an_embedding_of_constant_positions_is_a_weighted_op():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(6, 3)
            self.register_buffer("ids", torch.arange(4), persistent=False)

        def forward(self, x):
            return x + self.table(self.ids)

    (weight,) = find_weighted_ops(Positions())
    assert (weight.fqn, weight.ops) == ("table.weight", ("embedding",))
    round_trip(Positions(), X)


# all right


def test_padding_idx_row_survives():
    model = One(lambda self, x: self.e(x), e=nn.Embedding(6, 3, padding_idx=2))
    round_trip(model, torch.tensor([1, 2, 3]))


def test_shared_modules_called_several_times():
    report = round_trip(*((build("functional")[0]), build("functional")[1][0]))
    assert [entry.fqn for entry in report.converted] == list(WEIGHTS["functional"])


def test_a_module_under_two_names_is_one():
    layer = nn.Linear(3, 3)
    report = round_trip(One(lambda self, x: self.b(torch.tanh(self.a(x))), a=layer, b=layer), X)
    assert [entry.fqn for entry in report.converted] == ["a.weight"]


def test_tied_weights_stay_tied():
    model, inputs = build("transformer")
    traced = trace(model)
    ApplyPass().call(traced)
    assert traced.tokens.weight_v is traced.head.weight_v
    assert traced.tokens.weight_g is traced.head.weight_g
    assert "weight" not in traced.head._parameters
    round_trip(build("transformer")[0], *inputs)


def test_a_weight_that_is_also_used_elsewhere_is_composed_there_too():
    def forward(self, x):
        return self.layer(x).sum() + self.layer.weight.square().sum()

    model = One(forward, layer=nn.Linear(3, 5))
    report = round_trip(model, X)
    assert [entry.fqn for entry in report.converted] == ["layer.weight"]
    # a formula of several nodes
    round_trip(model, X, scheme="sigma_reparam")


def test_a_weight_used_elsewhere_first_is_composed_once():
    def forward(self, x):
        return self.layer.weight.square().sum() + self.layer(x).sum()

    round_trip(One(forward, layer=nn.Linear(3, 5)), X)


def test_a_bias_that_is_another_modules_weight():
    def forward(self, x):
        return F.linear(x, self.w, self.layer.weight[0])

    model = One(forward, w=param(3, 3), layer=nn.Linear(3, 2))
    assert [weight.fqn for weight in find_weighted_ops(model)] == ["w"]
    round_trip(model, X)


def test_sections_of_a_parameter_are_sites_of_the_whole():
    def forward(self, x):
        q, k = F.linear(x, self.w[:4]), F.linear(x, self.w[4:])
        return q * k

    report = round_trip(One(forward, w=param(8, 3)), X)
    assert [(entry.fqn, entry.keys) for entry in report.converted] == [("w", ("w_g", "w_v"))]


def test_chunks_of_a_parameter_are_sites_of_the_whole():
    def forward(self, x):
        a, b = self.w.chunk(2)[0], self.w.chunk(2)[1]
        return F.linear(x, a) * F.linear(x, b)

    report = round_trip(One(forward, w=param(8, 3)), X)
    assert [entry.fqn for entry in report.converted] == ["w"]


def test_a_reshaped_parameter_is_a_weight_without_known_output_dims():
    model = One(lambda self, x: F.conv1d(x.t()[None], self.w.view(5, 3, 1)), w=param(5, 3))
    (weight,) = find_weighted_ops(model)
    assert (weight.fqn, weight.shape, weight.output_dims) == ("w", (5, 3), None)
    round_trip(model, X)


def test_frozen_weights_stay_frozen():
    model = trace(One(lambda self, x: self.layer(x), layer=nn.Linear(3, 5).requires_grad_(False)))
    ApplyPass().call(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    round_trip(One(lambda self, x: self.layer(x), layer=nn.Linear(3, 5).requires_grad_(False)), X)


def test_unused_submodules_keep_their_keys():
    model = One(lambda self, x: self.layer(x), unused=nn.Linear(4, 4), layer=nn.Linear(3, 5), last=nn.Conv1d(1, 2, 3))
    _, converted = reasons(model)
    assert converted == ["layer.weight"]
    round_trip(model, X)


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(4, 6, 3, 3).transpose(0, 1),
    ],
    ids=["channels last", "transposed"],
)
def test_memory_formats_survive(weight):
    model = One(lambda self, x: F.conv2d(x, self.w), w=nn.Parameter(weight))
    model = trace(model.eval())
    before, inputs = Snapshot(model), (torch.randn(2, 4, 5, 5),)
    expected = outputs_of(model, inputs)
    ApplyPass().call(model)
    assert_same_outputs(outputs_of(model, inputs), expected)
    FoldPass().call(model)
    before.assert_same(model)


# all accounted for


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_a_model_is_in_the_report(name):
    model, _ = build(name)
    _, report = apply(model)
    assert tuple(entry.fqn for entry in report.converted) == WEIGHTS[name]
    again = apply(apply(model, how="graph").model).report
    assert tuple(entry.fqn for entry in again.skipped if entry.already) == WEIGHTS[name]
    again = apply(apply(model).model).report
    assert {entry.fqn for entry in again.skipped if entry.already} >= set(WEIGHTS[name])
    assert not again.converted


def test_a_model_of_odd_weights_says_so_for_each():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.sparse = nn.Embedding(5, 3, sparse=True)
            self.rnn = nn.GRU(3, 3)
            self.plain = nn.Linear(3, 3)
            self.hooked = nn.Linear(3, 3)
            self.hooked.register_forward_pre_hook(lambda *_: None)
            self.register_buffer("random", torch.randn(3, 3))
            self.computed = nn.Parameter(torch.randn(3, 3))

        def forward(self, ids):
            x = self.hooked(self.plain(self.rnn(self.sparse(ids))[0]))
            return F.linear(x @ self.random, self.computed * 2)

    skipped, converted = reasons(Odd())
    every = {name for name, tensor in (*Odd().named_parameters(), ("random", Odd().random)) if tensor.dim() > 1}
    assert {*skipped, *converted} == every
    assert converted == ["plain.weight"]


def test_a_model_of_skipped_weights_only_is_an_error_that_names_one():
    with pytest.raises(NothingToConvertError, match=r"e\.weight: max_norm"):
        apply(One(lambda self, x: self.e(x), e=nn.Embedding(6, 3, max_norm=1.0)))


class Positions(nn.Module):
    """A relative position bias: a network over a fixed table, as in Swin v2; no layer of it depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(5, 2))
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(self.table).relu())


def test_layers_over_a_fixed_table_are_weighted_ops() -> None:
    model = Positions()
    assert [weight.fqn for weight in find_weighted_ops(model)] == ["first.weight", "second.weight"]
    x = torch.randn(5, 3)
    converted, _ = apply(model)
    assert torch.equal(converted(x), model(x))
    folded, report = fold(converted)
    assert [entry.fqn for entry in report.converted] == ["first.weight", "second.weight"]
    assert list(folded.state_dict()) == list(model.state_dict())
    assert torch.equal(folded(x), model(x))


class Hypernetwork(nn.Module):
    """A layer whose weight is made by another layer, from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(2, 9)
        self.z = nn.Parameter(torch.randn(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.generator(self.z).view(3, 3))


def test_a_layer_that_makes_a_weight_is_part_of_it() -> None:
    model, x = Hypernetwork(), torch.randn(4, 3)
    converted, report = apply(model)
    assert [entry.fqn for entry in report.converted] == ["generator.weight"]
    assert torch.equal(converted(x), model(x))
    converted, report = apply(model, how="graph")
    assert [(entry.fqn, entry.reason) for entry in report.skipped][1:] == [
        ("generator.weight", "a computed weight depends on it")
    ]
    assert list(converted.state_dict()) == list(model.state_dict())
    folded, report = fold(model)
    assert len(report.converted) == 1
    assert torch.equal(folded(x), model(x))
