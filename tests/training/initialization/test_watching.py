"""Which calls read a composed weight as that of a layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.settling import X, gives, ours, sequential
from wnconvert.reasons import Why
from wnconvert.training.composed import composed_weights
from wnconvert.training.initialization.initializing import initialize
from wnconvert.training.initialization.watching import Call, Watch


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_layers_that_do_not_show_what_they_add_are_named(kind):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.transpose(1, 2))[0])

    report = initialize(ours(Model()), [X])
    assert [entry.fqn for entry in report.initialized] == ["head.weight"]
    assert {entry.reason.why for entry in report.skipped} == {Why.READ_OTHERWISE}
    assert f"{kind.__name__.lower()} reads it" in str(report)


def test_a_weight_that_something_else_reads_too_is_named():
    class Tying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.middle, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.middle(self.embedding(x)))

    report = initialize(ours(Tying(), dim=0), [torch.arange(9)])
    assert [entry.fqn for entry in report.initialized] == ["middle.weight"]
    assert "embedding reads it" in str(report.skipped[0].reason)


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Parameter(torch.randn(20, 6)), nn.Parameter(torch.randn(5, 6))
        self.c, self.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = (x.flatten(0, 1) @ self.a).relu()
        return torch.addmm(self.bias, torch.matmul(x, self.b.t()), self.c)


@pytest.mark.parametrize("how", ["module", "graph"])
def test_products_are_layers_too(how):
    model = ours(Products(), how=how)
    report = initialize(model, [X])
    assert [(entry.fqn, entry.biases) for entry in report.initialized] == [("a", ()), ("b", ()), ("c", ("bias",))]
    y = model(X)
    assert y.mean(0).abs().max() < 1e-5
    assert (y.var(0, unbiased=False) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("how", ["module", "graph"])
def test_a_call_shows_the_weight_and_what_it_gives(how):
    plain = sequential()
    model = ours(plain, how=how)
    calls: list[Call] = []
    with torch.no_grad(), Watch(model, composed_weights(model), lambda call: calls.append(call) or call.output):
        y = model(X)
    assert torch.equal(y, plain(X))
    assert [(call.weight, call.channel, call.dim, call.groups) for call in calls] == [
        (0, -2, 0, 1),
        (1, -2, 0, 8),
        (2, -2, 1, 1),
        (3, -1, 0, 1),
    ]
    assert all(call.bias is model.get_parameter(f"{index}.bias") for call, index in zip(calls, "0248", strict=True))
    for call, (name, given) in zip(calls, gives(plain, X).items(), strict=True):
        assert torch.equal(call.value, plain.get_parameter(f"{name}.weight"))
        torch.testing.assert_close(call.output.movedim(call.channel, 0).flatten(1).double().mean(1), given.mean(1))


def test_what_is_visited_decides_what_goes_on():
    model = ours(nn.Sequential(nn.Linear(20, 4), nn.ReLU()))
    with Watch(model, composed_weights(model), lambda call: torch.full_like(call.output, 3.0)):
        assert torch.equal(model(X), torch.full((16, 3, 4), 3.0))


def test_a_square_matrix_that_is_turned_is_known_as_such():
    model = ours(Products())
    weight = composed_weights(model)[0]
    found = []
    for product in (lambda x, w: x @ w, lambda x, w: F.linear(x, w.T), lambda x, w: torch.mm(x, w.t().mT)):
        with Watch(model, [weight], lambda call: found.append(call.dim) or call.output):
            product(torch.randn(5, 20), model.a)
    assert found == [1, 1, 1]
