"""The weights of a model are found without changing it, and what stands against one is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.tracing.behaviour import generators
from tests.tracing.cases import Base, X
from wnconvert.errors import OptionError
from wnconvert.modules.finding import find_weights


class Raw(Base):
    """Its parameters are its own, and it takes a decision before it uses them."""

    def prepare(self):
        self.w = nn.Parameter(torch.rand(4, 4))
        self.positions = nn.Parameter(torch.rand(3, 4))

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return self.fc(x @ self.w + self.positions)


def obstacles(model: nn.Module, *inputs: Tensor) -> dict[str, str | None]:
    """Return the names of all weights that were found or may be, with what stands against them."""
    return {weight.info.fqn: weight.obstacle for weight in find_weights(model, inputs or None).weights}


def roles(model: nn.Module, *inputs: Tensor) -> dict[str, tuple[str, ...]]:
    return {op.fqn: op.ops for op in wnconvert.find_weighted_ops(model, inputs or None)}


# what no graph shows


def test_without_a_graph_classes_tell_of_weights() -> None:
    assert roles(Raw()) == {"fc.weight": ("linear",)}
    found = find_weights(Raw())
    assert found.note is not None
    assert "it takes a decision on a value" in found.note
    assert {weight.info.fqn for weight in found.weights if weight.role is None} == {"w", "positions"}


def test_with_example_inputs_raw_parameters_are_found() -> None:
    assert roles(Raw(), X) == {"w": ("matmul",), "fc.weight": ("linear",)}
    assert obstacles(Raw(), X) == {"w": None, "fc.weight": None, "positions": "no weighted op reads it"}
    model = Raw()
    converted, report = wnconvert.apply(model, example_inputs=(X,))
    assert [entry.fqn for entry in report.converted] == ["w", "fc.weight"]
    assert torch.equal(converted(X), model(X))


def test_the_parts_of_what_cannot_be_traced_are_traced_by_themselves() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v, self.table = nn.Parameter(torch.rand(4, 4)), nn.Parameter(torch.rand(3, 4))

        def forward(self, x):
            return F.linear(x, self.v) + self.table

    class Outer(Base):
        def prepare(self):
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x) if x.sum() < 1e9 else self.fc(x)

    for model in (Outer(), nn.Sequential(Outer())):
        path = "0." if isinstance(model, nn.Sequential) else ""
        assert roles(model) == {f"{path}inner.v": ("linear",), f"{path}fc.weight": ("linear",)}
        assert obstacles(model)[f"{path}inner.table"] == "no weighted op reads it"


def test_inputs_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(OptionError, match="the model does not run on the example inputs: RuntimeError"):
        find_weights(Raw(), (torch.rand(3, 5),))


def test_computed_weights_and_what_they_are_computed_from_are_told_apart() -> None:
    class Computing(Base):
        def prepare(self):
            self.z = nn.Parameter(torch.rand(4, 4))

        def forward(self, x):
            return self.fc(x) @ F.normalize(self.z)

    found = find_weights(Computing())
    assert [(entry.fqn, entry.already) for entry in found.others] == [("z", True)]
    assert [weight.info.fqn for weight in found.weights] == ["fc.weight"]


# what a forward asks, and a composed weight would answer in another way


def _is_leaf(self, x):
    return self.fc(x) * (2 if self.fc.weight.is_leaf else 1)


def _isinstance(self, x):
    return self.fc(x) * (2 if isinstance(self.fc.weight, nn.Parameter) else 1)


def _type(self, x):
    return self.fc(x) * (2 if type(self.fc.weight) is nn.Parameter else 1)


def _parameters(self, x):
    return self.fc(x) + sum(p.square().sum() for p in self.parameters())


def _named_parameters(self, x):
    return F.linear(x, dict(self.named_parameters())["fc.weight"])


def _dictionary(self, x):
    return F.linear(x, self.fc._parameters["weight"])


def _state_dict(self, x):
    return F.linear(x, self.fc.state_dict()["weight"])


def _data(self, x):
    self.fc.weight.data = self.fc.weight.data * 0.5
    return self.fc(x)


def _assigned(self, x):
    self.fc.weight = nn.Parameter(self.fc.weight.detach() * 0.5)
    return self.fc(x)


def _gradient(self, x):
    return self.fc(x) * (1 if self.fc.weight.grad is None else 2)


def _hook(self, x):
    self.fc.weight.register_hook(lambda grad: grad * 2)
    return self.fc(x)


def _view(self, x):
    if self.training:
        with torch.no_grad():
            self.fc.weight[0].mul_(0.5)
    return self.fc(x)


def _view_of_data(self, x):
    if self.training:
        self.fc.weight.data.view(-1).clamp_(-1, 1)
    return self.fc(x)


def _row(self, x):
    with torch.no_grad():
        self.fc.weight[x.argmin() % 4].zero_()
    return self.fc(x)


def _in_evaluation(self, x):
    if not self.training:
        self.fc.weight.data = self.fc.weight.data * 0.5
    return self.fc(x)


SEEN: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "is_leaf": (_is_leaf, "a forward asks for its 'is_leaf'"),
    "isinstance": (_isinstance, "a forward asks whether it is a parameter"),
    "type": (_type, "a forward asks whether it is a parameter"),
    "parameters": (_parameters, "a forward takes it from a list of parameters"),
    "named_parameters": (_named_parameters, "a forward takes it from a list of parameters"),
    "_parameters": (_dictionary, "a forward takes it from a list of parameters"),
    "state_dict": (_state_dict, "a forward takes it from a state dict"),
    "data": (_data, "a forward assigns its 'data'"),
    "assigned": (_assigned, "a forward assigns it"),
    "grad": (_gradient, "a forward asks for its 'grad'"),
    "a hook": (_hook, "a forward calls its 'register_hook'"),
    "in evaluation alone": (_in_evaluation, "a forward assigns its 'data'"),
    "a view": (_view, "in place"),
    "a view of data": (_view_of_data, "in place"),
    "a row": (_row, "in place"),
}


@pytest.mark.parametrize("around", [False, True], ids=["alone", "in what cannot be traced"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("name", SEEN)
def test_what_a_forward_does_with_a_weight_stands_against_it(name: str, training: bool, around: bool) -> None:
    forward, reason = SEEN[name]
    model = type("Model", (Base,), {"forward": forward})().train(training)
    fqn = "fc.weight"
    if around:
        model, fqn = Deciding(model).train(training), "layer.fc.weight"
    obstacle = obstacles(model)[fqn]
    assert obstacle is not None
    assert reason in obstacle


class Deciding(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) if x.sum() < 1e9 else x


def _looking_at_its_shape(self, x):
    weight = self.fc.weight
    assert weight.is_floating_point()
    return self.fc(x) * weight.shape[0] * weight.numel() * weight.dim() * len(weight) * weight.size(1)


@pytest.mark.parametrize("name", ["a parameter of another", "its shape", "its dtype", "detached"])
def test_what_a_composed_weight_answers_alike_does_not(name: str) -> None:
    forwards = {
        "a parameter of another": lambda self, x: self.fc(x) * (2 if self.fc.bias.is_leaf else 1),
        "its shape": _looking_at_its_shape,
        "its dtype": lambda self, x: self.fc(x).to(self.fc.weight.dtype),
        "detached": lambda self, x: self.fc(x) + self.fc.weight.detach().sum(),
    }
    assert obstacles(type("Model", (Base,), {"forward": forwards[name]})()) == {"fc.weight": None}


# what it knows of padding


def test_padding_is_that_of_all_sites() -> None:
    class Functional(Base):
        def prepare(self):
            self.e = nn.Parameter(torch.rand(5, 4))
            self.both = nn.Parameter(torch.rand(5, 4))
            self.layer = nn.Embedding(5, 4, padding_idx=1)

        def forward(self, ids):
            x = F.embedding(ids, self.e, padding_idx=2) + F.embedding(ids, self.both, padding_idx=2)
            return F.linear(x + self.layer(ids), self.both)

    padding = {weight.info.fqn: weight.padding for weight in find_weights(Functional()).weights}
    assert padding["e"] == {2}
    assert padding["both"] == set()
    assert padding["layer.weight"] == {1}
    assert padding["fc.weight"] is None  # nothing calls it, so that its class may say


# nothing is changed


@pytest.mark.parametrize("inputs", [(), (X,)])
@pytest.mark.parametrize("name", SEEN)
def test_finding_changes_nothing(name: str, inputs: tuple[Tensor, ...]) -> None:
    forward, _ = SEEN[name]

    def drawing(self, x):
        self.seen = x + torch.rand(4)
        self.mean += 1
        return forward(self, x)

    model = type("Model", (Base,), {"forward": drawing})()
    before, state, held = generators(), copy.deepcopy(model.state_dict()), dict(vars(model))
    identities = [id(x) for module in model.modules() for x in (module, *module.parameters(), *module.buffers())]
    wnconvert.find_weighted_ops(model, inputs or None)
    assert generators() == before
    assert vars(model) == held
    assert identities == [
        id(x) for module in model.modules() for x in (module, *module.parameters(), *module.buffers())
    ]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not model.fc.weight._backward_hooks


def test_a_module_that_is_called_by_nobody_is_told_by_its_class() -> None:
    model = Raw()
    model.spare = nn.Conv1d(2, 2, 3)
    assert roles(model, X)["spare.weight"] == ("conv1d",)
