"""A function that a forward calls and that cannot be looked into is one node; nothing of the user's is patched."""

from __future__ import annotations

import math
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.tracing.cases import Base, X
from wnconvert.errors import TracingError
from wnconvert.tracing.helpers import Helper, helper_that_failed, own_names, rebound
from wnconvert.tracing.tracing import trace


def pad_to_even(x: Tensor, value: float = 0.0) -> Tensor:
    """Inspect a shape, which a proxy cannot answer."""
    return F.pad(x, (0, x.shape[1] % 2), value=value) if x.shape[1] % 2 else x


def outer(x: Tensor) -> Tensor:
    return pad_to_even(x) + 1


def plain(x: Tensor) -> Tensor:
    return F.relu(x) + 1


def calls_of(graph_module: nn.Module) -> list[object]:
    return [node.target for node in graph_module.graph.nodes if node.op == "call_function"]


def model_of(forward):
    return type("Model", (Base,), {"forward": forward})()


def _direct(self, x):
    return pad_to_even(self.fc(x), value=2.0)


def _through_another(self, x):
    return outer(self.fc(x))


def _twice(self, x):
    return pad_to_even(pad_to_even(self.fc(x))) * math.sqrt(x.shape[1])


def _by_name(self, x):
    return self.fc(x) * ceil(x.shape[1])


@pytest.mark.parametrize(
    ("forward", "nodes"),
    [
        (_direct, [pad_to_even]),
        (_through_another, [outer]),
        (_by_name, [getattr, None, ceil, None]),
    ],
)
def test_what_a_forward_calls_is_one_node(forward, nodes) -> None:
    model = model_of(forward)
    before = dict(forward.__globals__)
    graph_module = trace(model)
    found = calls_of(graph_module)
    assert len(found) == len(nodes)
    assert all(each is None or each is node for each, node in zip(nodes, found, strict=True))
    assert not graph_module.meta["opaque"]
    assert torch.equal(graph_module(X), model(X))
    assert dict(forward.__globals__) == before
    assert model.forward.__func__ is forward


def test_several_helpers_are_found_one_after_the_other() -> None:
    graph_module = trace(model_of(_twice))
    assert calls_of(graph_module).count(pad_to_even) == 2
    assert math.sqrt in calls_of(graph_module)
    assert torch.equal(graph_module(X), model_of(_twice)(X))


def test_what_can_be_looked_into_is() -> None:
    calls = calls_of(trace(model_of(lambda self, x: plain(self.fc(x)))))
    assert plain not in calls
    assert F.relu in calls or torch.relu in calls


def test_a_helper_of_a_method_is_found_there() -> None:
    class Methods(Base):
        def shift(self, x):
            return pad_to_even(self.fc(x))

        def forward(self, x):
            return self.shift(x)

    # a namespace of its own is only made for `forward` and for what has the name of its code
    graph_module = trace(Methods())
    assert calls_of(graph_module) == [pad_to_even]
    assert torch.equal(graph_module(X), Methods()(X))


def test_a_helper_without_a_name_of_its_own_has_no_node() -> None:
    def local(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(TracingError, match="it takes a decision on a value"):
        trace(model_of(lambda self, x: local(self.fc(x))))


# the functions themselves


class Caller:
    """It stands in for a stand-in."""

    factor = 2

    def forward(self, x, scale=3, *, shift=1):
        """Say what it does."""
        return plain(x) * scale + shift

    def other(self, x):
        return type(x) is int


def failed(call) -> Helper | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - any will do
        return helper_that_failed(error)
    raise AssertionError("it did not fail")


def test_only_what_a_stand_in_called_is_to_blame() -> None:
    stand_in = type("Caller", (Caller,), {"shadowed": Caller})()
    helper = failed(lambda: stand_in.forward("text"))
    assert helper == Helper(Caller.forward.__code__, "plain", plain)
    assert failed(lambda: Caller().forward("text")) is None
    assert failed(lambda: plain("text")) is None
    assert failed(lambda: stand_in.missing) is None


def test_a_method_is_bound_to_another_namespace_and_keeps_all_else() -> None:
    written = []
    helper = Helper(Caller.forward.__code__, "plain", plain)
    methods = rebound(Caller, [helper, Helper(pad_to_even.__code__, "F", F)], lambda *call: written.append(call))
    assert list(methods) == ["forward"]
    method = methods["forward"]
    assert method is not Caller.forward
    assert (method.__name__, method.__defaults__, method.__kwdefaults__) == ("forward", (3,), {"shift": 1})
    assert method.__code__ is Caller.forward.__code__
    assert torch.equal(method(Caller(), X), Caller().forward(X))
    assert not written
    assert Caller.forward.__globals__["plain"] is plain


def test_the_methods_that_ask_for_a_type_are_known() -> None:
    assert [helper.caller for helper in own_names(Caller) if helper.value is type] == [Caller.other.__code__]
    assert not list(own_names(nn.Linear))


SEEN: list[object] = []
LAST: object = None


class Remembering(nn.Module):
    """It keeps what it sees in its module, which is the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global LAST
        LAST = x
        SEEN.append(x)
        return self.layer(x) * len(SEEN)


def test_the_module_of_the_users_code_is_left_alone() -> None:
    assert [op.fqn for op in wnconvert.find_weighted_ops(Remembering())] == ["layer.weight"]
    with pytest.raises(wnconvert.TracingError):
        wnconvert.trace(Remembering())
    assert SEEN == []
    assert LAST is None
