"""Attributes that hold weights without registering them."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections import OrderedDict, deque, namedtuple
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import bits_equal
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.report import Report
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection

Pair = namedtuple("Pair", ["weight", "text"])


def apply(model: nn.Module, selection: Selection | None = None) -> Report:
    return apply_in_place(model, WeightNorm(), 0, selection or Selection())


KINDS: dict[str, tuple[Any, Any]] = {
    "list": (lambda w: [w, 1], lambda held: held[0]),
    "tuple": (lambda w: (1, w), lambda held: held[1]),
    "dict": (lambda w: {"w": w, "n": 1}, lambda held: held["w"]),
    "ordered": (lambda w: OrderedDict(w=w), lambda held: held["w"]),
    "named": (lambda w: Pair(w, "x"), lambda held: held.weight),
    "nested": (lambda w: {"a": [(0, w)], "b": [1]}, lambda held: held["a"][0][1]),
    "itself": (lambda w: w, lambda held: held),
}


class Aliasing(nn.Module):
    """Reads a weight by another name than it is registered by."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.fc = nn.Linear(3, 3)
        self.inner = nn.Sequential(nn.Linear(3, 3))
        object.__setattr__(self, "alias", KINDS[kind][0](self.fc.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.inner(x), KINDS[self.kind][1](self.alias))


X = torch.linspace(-1, 1, 6).reshape(2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_alias_is_composed_trains_and_comes_back(kind: str) -> None:
    model = Aliasing(kind)
    expected, get, before = model(X), KINDS[kind][1], type(model.alias)
    report = apply(model)
    assert [entry.fqn for entry in report.converted] == ["fc.weight", "inner.0.weight"]
    assert torch.equal(model(X), expected)
    assert type(model.alias) is before or isinstance(model.alias, Tensor)
    model(X).sum().backward()
    assert model.fc.weight_g.grad is not None
    with torch.no_grad():
        model.fc.weight_g.mul_(2)
    assert bits_equal(get(model.alias), model.fc.weight)
    expected = model(X)
    fold_in_place(model, Selection())
    assert get(model.alias) is model.fc.weight
    assert type(model.alias) is before
    assert type(model) is Aliasing
    assert torch.equal(model(X), expected)
    assert isinstance(vars(model)["alias"], before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_hold_their_own(kind: str, how: Any) -> None:
    model = Aliasing(kind)
    apply(model)
    twin, expected = how(model), model(X)
    with torch.no_grad():
        model.fc.weight_g.mul_(2)
    assert torch.equal(twin(X), expected)
    fold_in_place(twin, Selection())
    assert KINDS[kind][1](twin.alias) is twin.fc.weight


def test_what_else_is_in_a_container_stays_the_object_it_is() -> None:
    model = Aliasing("nested")
    other = model.alias["b"]
    apply(model)
    assert model.alias["b"] is other
    assert list(model.alias) == ["a", "b"]


def test_an_alias_can_be_set_to_something_else() -> None:
    model = Aliasing("list")
    apply(model)
    model.alias = [torch.zeros(3, 3)]
    assert not model.alias[0].any()
    assert torch.equal(model(X), torch.zeros(2, 3))
    fold_in_place(model, Selection())
    assert not vars(model)["alias"][0].any()


def test_an_alias_of_two_weights_of_which_one_is_converted_and_folded() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model.both = [layer.weight for layer in model]
    apply(model, Selection(exclude=("2",)))
    assert model.both[2] is model[2].weight
    assert bits_equal(model.both[0], model[0].weight)
    fold_in_place(model, Selection(include=("0",)))
    assert model.both[0] is model[0].weight
    assert bits_equal(model.both[1], model[1].weight)
    fold_in_place(model, Selection())
    assert all(weight is layer.weight for weight, layer in zip(vars(model)["both"], model, strict=True))


def test_an_alias_in_a_converted_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].__dict__["previous"] = model[0].weight
    apply(model)
    assert bits_equal(model[1].previous, model[0].weight)
    fold_in_place(model, Selection())
    assert vars(model[1])["previous"] is model[0].weight
    assert type(model[1]) is nn.Linear


def test_an_alias_of_a_tied_weight_and_of_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.held = [model[1].weight]
    model.held.append(model.held)
    apply(model)
    assert bits_equal(model.held[0], model[0].weight)
    fold_in_place(model, Selection())
    assert model.held[0] is model[0].weight


class Caller:
    """A function with a weight of its own."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Unknown(list):
    """A list that may do anything."""


@pytest.mark.parametrize(
    ("hold", "reason"),
    [
        (lambda w: SimpleNamespace(w=w), "a SimpleNamespace in 'held'"),
        (lambda w: SimpleNamespace(deep=[{"w": w}]), "a SimpleNamespace in 'held'"),
        (lambda w: [SimpleNamespace(w=w)], "a SimpleNamespace in 'held'"),
        (lambda w: {w}, "a set in 'held'"),
        (lambda w: deque([w]), "a deque in 'held'"),
        (lambda w: Unknown([w]), "a Unknown in 'held'"),
        (lambda w: [tied_to(w)], "an unregistered Linear in 'held'"),
        (lambda w: partial(F.linear, weight=w), "a partial in 'held'"),
        (lambda w: lambda x: F.linear(x, w), "a function in 'held'"),
        (lambda w: [Caller(w)], "a Caller in 'held'"),
    ],
)
def test_what_cannot_follow_keeps_its_weight(hold: Any, reason: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.held = hold(model[0].weight)
    report = apply(model)
    assert [(entry.fqn, entry.reason) for entry in report.skipped] == [
        ("0.weight", f"{reason} refers to it too, and would not see that it is composed")
    ]
    assert [entry.fqn for entry in report.converted] == ["1.weight"]


def test_an_optimizer_of_its_own_keeps_its_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert "a SGD in 'optimizer' refers to it too" in apply(model).skipped[0].reason


def test_what_is_gone_is_no_matter() -> None:
    model, other = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    model.gone = [weakref.proxy(other), weakref.ref(other)]
    del other
    assert len(apply(model).converted) == 1


def test_a_function_that_names_what_has_no_value_yet() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.later = lambda: value
    assert len(apply(model).converted) == 1
    value = model.later
    assert model.later() is value


def test_setting_an_alias_of_a_shallow_copy_leaves_the_original() -> None:
    model = Aliasing("list")
    apply(model)
    shallow = copy.copy(model)
    shallow.alias = None
    assert bits_equal(model.alias[0], model.fc.weight)


def tied_to(weight: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.weight = weight
    return layer


def test_hooks_that_hold_a_weight_keep_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    weight = model[0].weight
    model[1].register_forward_hook(lambda module, args, output: output @ weight)
    assert [entry.reason for entry in apply(model).skipped] == [
        "a function in '1._forward_hooks' refers to it too, and would not see that it is composed"
    ]


def test_a_view_in_an_attribute_keeps_its_weight() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model.transposed = model[0].weight.t()
    report = apply(model)
    assert [(entry.fqn, entry.reason) for entry in report.skipped] == [
        ("0.weight", "it shares memory with 'transposed', which is another tensor")
    ]


def test_modules_that_refer_to_each_other_are_no_matter() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].__dict__["parent"] = model
    model.layers = list(model)
    assert len(apply(model).converted) == 1
    assert copy.deepcopy(model)[0].parent is not model


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles(kind: str) -> None:
    torch._dynamo.reset()
    model = Aliasing(kind)
    expected = model(X)
    apply(model)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(X), expected)
