"""A graph that does something else than its model is told from it, whatever it is and whenever."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wnconvert
from tests.tracing.behaviour import generators
from tests.tracing.cases import Base, X
from wnconvert.errors import TracingError
from wnconvert.tracing.comparing import require_same
from wnconvert.tracing.tracing import trace


def model_of(forward: Callable[[Any, Any], Any]) -> nn.Module:
    def prepare(self):
        self.calls = 0
        self.register_buffer("seen", torch.zeros(1))

    return type("Model", (Base,), {"forward": forward, "prepare": prepare})()


def plain(self, x):
    self.mean += 1
    return {"y": F.dropout(self.fc(x) * self.mean, 0.5, True), "n": [x.view(4, 3), x > 0]}


def _outputs(self, x):
    found = plain(self, x)
    return {**found, "y": found["y"] * torch.tensor([1, 1, 1, 1 + 2**-20])}


def _fewer_outputs(self, x):
    found = plain(self, x)
    return {"y": found["y"], "n": found["n"][:1]}


def _strides(self, x):
    found = plain(self, x)
    return {**found, "n": [found["n"][0].t().contiguous().t(), found["n"][1]]}


def _dtype(self, x):
    found = plain(self, x)
    return {**found, "n": [found["n"][0].double(), found["n"][1]]}


def _integers(self, x):
    found = plain(self, x)
    return {**found, "n": [found["n"][0], x >= 0.9]}


def _signs_of_zeros(self, x):
    found = plain(self, x)
    return {**found, "n": [torch.where(found["n"][0] == 0, -0.0, found["n"][0]), found["n"][1]]}


def _gradients(self, x):
    self.mean += 1
    y = self.fc(x)
    y = y.detach() + (2 * y - (2 * y).detach())
    return {"y": F.dropout(y * self.mean, 0.5, True), "n": [x.view(4, 3), x > 0]}


def _no_gradients(self, x):
    found = plain(self, x)
    return {**found, "y": found["y"].detach()}


def _buffers(self, x):
    self.seen += 1
    return plain(self, x)


def _random_numbers(self, x):
    torch.rand(1)
    return plain(self, x)


def _in_training(self, x):
    found = plain(self, x)
    return {**found, "y": found["y"] * (2 if self.training else 1)}


def _in_evaluation(self, x):
    found = plain(self, x)
    return {**found, "y": found["y"] * (1 if self.training else 2)}


def _second_call(self, x):
    self.calls += 1
    found = plain(self, x)
    return {**found, "y": found["y"] * self.calls}


OTHERS = {
    "outputs": (_outputs, "outputs"),
    "the number of outputs": (_fewer_outputs, "outputs"),
    "strides": (_strides, "outputs"),
    "a dtype": (_dtype, "outputs"),
    "integers": (_integers, "outputs"),
    "gradients": (_gradients, "gradients"),
    "no gradients": (_no_gradients, "gradients"),
    "buffers": (_buffers, "buffers"),
    "random numbers": (_random_numbers, "outputs"),
    "training alone": (_in_training, "outputs than the model in training mode"),
    "evaluation alone": (_in_evaluation, "outputs than the model in evaluation mode"),
    "the second call alone": (_second_call, "outputs"),
}


@pytest.mark.parametrize("training", [True, False])
def test_what_does_the_same_is_accepted(training: bool) -> None:
    require_same(model_of(plain).train(training), model_of(plain), (X,))


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_something_else_is_refused(name: str) -> None:
    forward, what = OTHERS[name]
    with pytest.raises(TracingError, match=f"the graph of 'Model' gives other {what}"):
        require_same(model_of(plain), model_of(forward), (X,))
    require_same(model_of(forward), model_of(forward), (X,))


def test_signs_of_zeros_are_bits() -> None:
    x = torch.zeros(3, 4)
    with pytest.raises(TracingError, match="other outputs"):
        require_same(model_of(plain), model_of(_signs_of_zeros), (x,))


def test_a_model_that_does_not_run_is_named() -> None:
    with pytest.raises(TracingError, match=r"'Model' does not run on the example inputs: RuntimeError: .*mat1"):
        require_same(model_of(plain), model_of(plain), (torch.rand(3, 5),))


def test_what_cannot_be_differentiated_is_compared_in_all_else() -> None:
    def broken(self, x):
        y = self.fc(x).exp()
        y.data.add_(0)
        y.detach().add_(1)
        return y.mul_(2) * y

    def other(self, x):
        return broken(self, x) * 1.5

    require_same(model_of(broken), model_of(broken), (X,))
    with pytest.raises(TracingError, match="other outputs"):
        require_same(model_of(broken), model_of(other), (X,))


def test_neither_the_models_nor_the_inputs_nor_the_process_change() -> None:
    def changing(self, x):
        x.add_(random.random())
        self.mean += torch.rand(4)
        return self.fc(x)

    model, x = model_of(changing).eval(), X.clone()
    before, state = generators(), copy.deepcopy(model.state_dict())
    require_same(model, model, (x,))
    assert generators() == before
    assert torch.equal(x, X)
    assert not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_conversions_to_graphs_compare_where_they_can(monkeypatch) -> None:
    model = model_of(lambda self, x: self.fc(x))
    compared: list[Any] = []
    monkeypatch.setattr("wnconvert.api.require_same", lambda *args: compared.append(args))
    wnconvert.apply(model, how="graph")
    wnconvert.apply(model, example_inputs=(X,))
    assert not compared
    wnconvert.apply(model, how="graph", example_inputs=(X,))
    wnconvert.fold(wnconvert.apply(model).model, how="graph", example_inputs=(X,))
    assert [type(graph_module).__name__ for _, graph_module, _ in compared] == ["Model", "Model"]


def test_a_graph_that_lies_is_found_out(monkeypatch) -> None:
    model = model_of(lambda self, x: self.fc(x) if self.training else x)

    def lying(work: nn.Module) -> nn.Module:
        return trace(model_of(lambda self, x: self.fc(x)))

    monkeypatch.setattr("wnconvert.api.trace", lying)
    assert wnconvert.apply(model, how="graph").report.converted
    with pytest.raises(TracingError, match="other outputs than the model in evaluation mode"):
        wnconvert.apply(model, how="graph", example_inputs=(X,))
