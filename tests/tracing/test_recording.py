"""A real forward is watched: what its parameters went into is a graph, whatever decisions it took."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.tracing.behaviour import generators
from tests.tracing.cases import Base, X
from wnconvert.graph.entries import Entries
from wnconvert.tracing.recording import record
from wnconvert.weights.sites import find


class Deciding(Base):
    def prepare(self):
        self.w = nn.Parameter(torch.rand(4, 4))
        self.many = nn.Parameter(torch.rand(3, 4, 4))
        self.unused = nn.Parameter(torch.rand(4, 4))

    def forward(self, x):
        if x.sum() < 1e9:
            x = x @ self.w
        a, *_ = self.many.unbind()
        return self.fc(F.linear(x, a) + torch.randn(4) + self.mean)


def recorded(model: nn.Module, *inputs: Any) -> list[tuple[str, tuple[str, ...]]]:
    found = find(model, Entries(model), record(model, inputs or (X,)))
    return [(weight.info.fqn, weight.info.ops) for weight in found.weights]


def test_what_a_forward_did_with_its_parameters_is_seen() -> None:
    assert recorded(Deciding()) == [("w", ("matmul",)), ("many", ("linear",)), ("fc.weight", ("linear",))]


def test_only_the_branch_that_was_taken_is_seen() -> None:
    assert [name for name, _ in recorded(Deciding(), X + 1e10)] == ["many", "fc.weight"]


def test_what_is_neither_an_input_nor_held_is_a_placeholder() -> None:
    graph = record(Deciding(), (X,))
    fetched = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    assert fetched == ["w", "many", "mean", "fc.weight", "fc.bias"]
    assert {node.op for node in graph.nodes} == {"placeholder", "get_attr", "call_method", "call_function"}
    graph.lint()


def test_a_tensor_under_two_names_is_fetched_under_its_first() -> None:
    model = Deciding()
    model.again = model.w
    graph = record(model, (X,))
    assert "again" not in [node.target for node in graph.nodes]
    assert recorded(model)[0] == ("w", ("matmul",))


def test_attributes_and_results_of_several_tensors_are_followed() -> None:
    class Views(Deciding):
        def forward(self, x):
            self.note = torch.ones(1)
            a, b = self.w.T.chunk(2, dim=0)
            x.requires_grad_()
            self.fc.weight.grad = None
            return F.linear(x, torch.cat((a, b))) + x @ self.many.max(0).values

    names = [name for name, _ in recorded(Views())]
    assert "unused" not in names
    assert "fc.weight" not in names


def test_ids_are_not_taken_twice() -> None:
    """Tensors that die on the way would give theirs to others, which would then seem to be parameters."""

    class Short(Deciding):
        def forward(self, x):
            for _ in range(50):
                x = F.linear(x, torch.eye(4) * 1.0)
            return self.fc(x)

    assert recorded(Short()) == [("fc.weight", ("linear",))]


def test_neither_the_inputs_nor_the_generators_change() -> None:
    class Writing(Deciding):
        def forward(self, x):
            x += torch.rand(4)
            return self.fc(x)

    model = Writing()  # which draws its weights
    x, before = X.clone(), generators()
    record(model, (x,))
    assert generators() == before
    assert torch.equal(x, X)
    assert torch.is_grad_enabled()
