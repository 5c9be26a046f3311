"""What stands for a value tells the truth, or says that it cannot; it never crashes the process."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import wnconvert
from tests.tracing.behaviour import behaviour, differences
from tests.tracing.cases import Base, X
from wnconvert.errors import TracingError
from wnconvert.tracing.hazards import Hazard, HazardError
from wnconvert.tracing.proxies import SCALAR, TENSOR, TENSORS, UNKNOWN, kind_of, leaves_in
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits


def model_of(forward: Callable[..., Any], known: bool = True) -> Base:
    """Return a model with a forward whose input is said to be a tensor, or of which nothing is said."""
    forward.__annotations__ = {"x": Tensor} if known else {}
    return type("Model", (Base,), {"forward": forward})()


def asked(question: Callable[[Any], Any], known: bool = True) -> Any:
    """Return what a proxy answers in the forward of a model, or what it raises."""
    answers: list[Any] = []

    def forward(self, x):
        try:
            answers.append(question(x))
        except Exception as error:  # noqa: BLE001 - that is the answer
            answers.append(error)
        return self.fc(x)

    with suppress(TracingError):
        trace(model_of(forward, known))
    return answers[0]


TRUE_OF_A_TENSOR = {
    "isinstance": lambda x: isinstance(x, Tensor),
    "no list": lambda x: not isinstance(x, (list, tuple, dict, str, int)),
    "no parameter": lambda x: not isinstance(x, nn.Parameter),
    "is_tensor": torch.is_tensor,
    "a method": lambda x: hasattr(x, "add_"),
    "no other attribute": lambda x: not hasattr(x, "last_hidden_state"),
    "no other attribute with a default": lambda x: getattr(x, "last_hidden_state", 5) == 5,
    "no function": lambda x: not callable(x),
    "its hash": lambda x: x in {x: 1} and len({x, x, x + 1}) == 2,
    "what is not None": lambda x: x is not None,
}


@pytest.mark.parametrize("name", TRUE_OF_A_TENSOR)
def test_of_a_tensor_the_truth_is_told(name: str) -> None:
    assert TRUE_OF_A_TENSOR[name](X)
    assert asked(TRUE_OF_A_TENSOR[name]) is True


ASKED_TOO_MUCH = {
    "isinstance": (lambda x: isinstance(x, Tensor), Hazard.TYPE),
    "an attribute": (lambda x: hasattr(x, "last_hidden_state"), Hazard.TYPE),
    "its hash": (lambda x: {x: 1}, Hazard.VALUE),
    "its length": (len, Hazard.VALUE),
    "a condition": (bool, Hazard.VALUE),
    "a whole number": (int, Hazard.VALUE),
    "a number": (float, Hazard.VALUE),
    "its items": (list, Hazard.VALUE),
    "what it contains": (lambda x: 1 in x, Hazard.VALUE),
    "a text": (str, Hazard.VALUE),
    "a gradient": (lambda x: x.grad is None, Hazard.TYPE),
    "what computed it": (lambda x: x.grad_fn is None, Hazard.TYPE),
    "setting items": (lambda x: operator.setitem(x, 0, 1), Hazard.WRITE),
    "setting an attribute": (lambda x: setattr(x, "data", x), Hazard.WRITE),
}
OF_TENSORS_TOO = [name for name in ASKED_TOO_MUCH if name not in ("isinstance", "an attribute", "its hash")]


@pytest.mark.parametrize(
    ("name", "known"), [*((name, False) for name in ASKED_TOO_MUCH), *((name, True) for name in OF_TENSORS_TOO)]
)
def test_what_nobody_can_know_is_a_hazard(name: str, known: bool) -> None:
    question, hazard = ASKED_TOO_MUCH[name]
    answer = asked(question, known)
    assert isinstance(answer, HazardError)
    assert answer.hazard is hazard


def test_a_text_that_tells_of_an_error_may_be_made() -> None:
    def forward(self, x):
        torch._assert(x.shape[0] == 3, f"{x.shape[0]} rows are not 3")
        return self.fc(x)

    graph_module = trace(model_of(forward))
    assert torch.equal(graph_module(X), model_of(forward)(X))
    with pytest.raises(AssertionError, match="rows are not 3"):
        graph_module(X[:2])


def test_the_length_of_what_nothing_is_known_of_is_a_number() -> None:
    def forward(self, x):
        rows = before = x.shape[0]
        rows += 1
        return self.fc(x) * rows * before

    graph_module = trace(model_of(forward, known=False))
    assert torch.equal(graph_module(X), model_of(forward)(X))


def test_no_tensor_has_an_attribute_that_tensors_have_not() -> None:
    error = asked(lambda x: x.last_hidden_state)
    assert isinstance(error, AttributeError)
    assert str(error) == "'Tensor' object has no attribute 'last_hidden_state'"


def test_the_type_of_a_tensor_is_told_in_methods_of_the_model() -> None:
    def forward(self, x):
        assert type(x) is Tensor
        assert type(self.mean) is Tensor
        assert type(self.fc.weight) is nn.Parameter
        assert int is int
        return self.fc(x)

    assert torch.equal(trace(model_of(forward))(X), model_of(forward)(X))


def test_own_tensors_are_as_long_as_they_are() -> None:
    def forward(self, x):
        a, *rest = self.fc.weight
        assert len(self.fc.weight) == 4
        assert len(rest) == 3
        assert isinstance(self.fc.weight, nn.Parameter)
        assert not isinstance(self.mean, nn.Parameter)
        assert self.fc.weight.shape == (4, 4)
        assert self.mean.is_floating_point()
        return self.fc(x) + a + sum(row for row in self.fc.weight)

    graph_module = trace(model_of(forward))
    assert not differences(behaviour(graph_module, [(X,)]), behaviour(model_of(forward), [(X,)]))


# operators


BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "eq", "ne", "lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs")
IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow")


def _binary(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, x: (self.fc(x), getattr(operator, name)(x, 2.0), getattr(operator, name)(x, x))


def _reflected(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, x: (self.fc(x), getattr(operator, name)(2.0, x), getattr(operator, name)(self.mean, x))


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    def forward(self, x):
        y = alias = x * 3
        y = getattr(operator, name)(y, 2.0)
        return self.fc(alias), y * 1

    return forward


def _unary(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, x: (self.fc(x), getattr(operator, name)(x))


def _of_bits(name: str) -> Callable[[Any, Any], Any]:
    def forward(self, x):
        y = x.long() + 5
        other = getattr(operator, name)(y, 2)
        return self.fc(x), y * 1, other * 1, getattr(operator, name.strip("i_") + "_" * name.endswith("_"))(2, y.abs())

    return forward


FORWARDS = {
    **{name: _binary(name) for name in BINARY},
    **{f"reflected {name}": _reflected(name) for name in BINARY},
    **{name: _in_place(name) for name in IN_PLACE},
    **{name: _unary(name) for name in UNARY},
    **{name: _of_bits(name) for name in ("and_", "or_", "xor", "lshift", "rshift")},
    "matmul": lambda self, x: self.fc.weight @ (x @ self.fc.weight).T,
    "invert": lambda self, x: (self.fc(x), ~(x > 0)),
    "in place, of bits": lambda self, x: (self.fc(x), operator.ior(operator.iand(x > 0, x > 1), x < 0) * 1),
    "round": lambda self, x: (self.fc(x), x.round(), x.float()),
    "getitem": lambda self, x: (self.fc(x)[0], x[..., 1:], x[None, :, -1], x[x > 0], x[x.argmin()]),
    "attributes": lambda self, x: (self.fc(x).T, x.mT + 0, x.shape[0] * 2, x.dtype, x.device),
    "numbers": lambda self, x: self.fc(x) * (x.shape[0] + 1) / x.size(1) ** 2 - x.dim() // 2,
    "in place on numbers": lambda self, x: self.fc(x) * operator.iadd(x.shape[0], 3),
    "keywords": lambda self, x: torch.add(input=self.fc(x), other=x, alpha=2),
    "lists": lambda self, x: torch.cat([self.fc(x), x], dim=1),
    "addmm": lambda self, x: torch.addmm(self.fc.bias, x, self.fc.weight.t()),
    "an overload": lambda self, x: torch.ops.aten.addmm.default(self.fc.bias, x, self.fc.weight.t()),
    "a packet": lambda self, x: torch.ops.aten.linear(x, self.fc.weight, self.fc.bias),
    "einsum": lambda self, x: torch.einsum("ij,kj->ik", x, self.fc.weight),
    "functional": lambda self, x: F.softmax(self.fc(x), -1) + F.layer_norm(x, (4,), self.mean),
    "out": lambda self, x: torch.add(self.fc(x), 1),
}


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("known", [True, False])
def test_operators_and_functions_are_nodes(name: str, known: bool) -> None:
    model = model_of(FORWARDS[name], known)
    graph_module = trace(model)
    with torch.no_grad():
        graph_module.mean.add_(0.5)
    outputs = [pytree.tree_leaves(each(X.clone())) for each in (graph_module, model)]
    for mine, its in zip(*outputs, strict=True):
        assert same_bits(mine, its) if isinstance(its, Tensor) else mine == its


# whatever else a forward may do with a value


class Reversed(torch.autograd.Function):
    """It passes on the gradient with the other sign."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad


@torch.compile(backend="eager")
def _compiled(x):
    return x + 1


ODD = {
    "an autograd function": lambda self, x: Reversed.apply(x),
    "of a parameter": lambda self, x: F.linear(x, Reversed.apply(self.fc.weight)),
    "a checkpoint": lambda self, x: checkpoint(self.fc, x, use_reentrant=False),
    "a reentrant checkpoint": lambda self, x: checkpoint(self.fc, x, use_reentrant=True),
    "vmap": lambda self, x: torch.func.vmap(torch.sin)(x),
    "grad": lambda self, x: torch.func.grad(lambda y: y.sum())(x),
    "functional_call": lambda self, x: torch.func.functional_call(self.fc, {"weight": self.fc.weight * 2}, (x,)),
    "compiled": lambda self, x: _compiled(x),
    "numpy": lambda self, x: x.detach().numpy().sum(),
    "an array": lambda self, x: np.asarray(x.detach()).sum(),
    "a ufunc": lambda self, x: np.add(x.detach(), 1).sum(),
    "dlpack": lambda self, x: torch.from_dlpack(x.detach()),
    "its memory": lambda self, x: x.data_ptr() * 0,
    "its storage": lambda self, x: x.untyped_storage().nbytes(),
    "a list": lambda self, x: x.tolist(),
    "an item": lambda self, x: x[0, 0].item(),
    "a pickle": lambda self, x: len(pickle.dumps(x.detach())) * 0,
    "a deep copy": lambda self, x: copy.deepcopy(x.detach()),
    "a copy": lambda self, x: copy.copy(x),
    "a weak reference": lambda self, x: weakref.ref(x)() is x,
    "a parameter": lambda self, x: F.linear(x, nn.Parameter(x[:1])),
    "a tensor": lambda self, x: torch.as_tensor(x),
    "backward": lambda self, x: self.fc(x).sum().backward() if torch.is_grad_enabled() else None,
    "gradients": lambda self, x: (x.grad_fn is None, x.requires_grad, x.is_leaf),
    "a hook": lambda self, x: self.fc(x).clone().requires_grad_().register_hook(lambda grad: grad * 2) is not None,
    "a text": lambda self, x: f"{x.shape[0]}" + str(x.dtype),
    "a format": lambda self, x: f"{x.sum():.1f}",
    "math": lambda self, x: math.floor(x.sum()),
    "a range": lambda self, x: [x[i] for i in range(x.shape[0])],
    "a slice of a list": lambda self, x: [1, 2, 3, 4][: x.shape[0]],
    "divmod": lambda self, x: divmod(x.shape[0], 2),
    "an index of another tensor": lambda self, x: torch.arange(9)[x.argmin()],
    "a tree": lambda self, x: pytree.tree_map(torch.sin, {"a": [x, 1]})["a"][0],
    "an initialization": lambda self, x: nn.init.zeros_(x.clone()),
    "its variables": lambda self, x: len(vars(x)) * 0,
    "a new tensor": lambda self, x: x.new_tensor([1.0]),
    "a type": lambda self, x: x.type(),
    "a type as": lambda self, x: x.type(torch.float64).type_as(x),
    "a swap": lambda self, x: torch.utils.swap_tensors(x.clone(), x.clone()),
    "a nested tensor": lambda self, x: torch.nested.nested_tensor([x, x]).sum(),
    "a private function": lambda self, x: torch._C._nn.gelu(x),
    "deleting": lambda self, x: delattr(x, "grad"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("known", [True, False])
def test_whatever_a_forward_does_gives_a_sound_graph_or_none(name: str, known: bool) -> None:
    def forward(self, x):
        y = ODD[name](self, x)
        return self.fc(x) * 2, y

    warnings.simplefilter("ignore")
    found = [op.fqn for op in wnconvert.find_weighted_ops(model_of(forward, known))]
    assert found == ["fc.weight"]
    try:
        graph_module = trace(model_of(forward, known))
    except TracingError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = behaviour(model_of(forward, known), [(X,)])
        assert not differences(behaviour(graph_module, [(X,)]), expected)


# what is known of the result of a call


@pytest.mark.parametrize(
    ("op", "target", "args", "kind"),
    [
        ("call_function", torch.relu, (), TENSOR),
        ("call_function", F.linear, (), TENSOR),
        ("call_function", torch.chunk, (), TENSORS),
        ("call_function", torch.max, (), UNKNOWN),
        ("call_function", torch.numel, (), SCALAR),
        ("call_function", torch.ops.aten.relu.default, (), TENSOR),
        ("call_function", math.sqrt, (), SCALAR),
        ("call_function", len, (), UNKNOWN),
        ("call_function", operator.add, (1, 2), SCALAR),
        ("call_method", "size", (), SCALAR),
        ("call_method", "split", (), TENSORS),
        ("call_method", "max", (), UNKNOWN),
        ("call_method", "relu", (), UNKNOWN),
    ],
)
def test_the_kind_of_a_result(op: str, target: Any, args: tuple[Any, ...], kind: str) -> None:
    assert kind_of(op, target, args) == kind


def test_what_containers_hold_is_found_without_asking() -> None:
    assert list(leaves_in(({"a": [1, (2, slice(3, None, 4))]}, 5))) == [1, 2, 3, None, 4, 5]
