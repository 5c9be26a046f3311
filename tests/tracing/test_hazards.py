"""What a graph would lose is seen, and each observation is needed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from tests.tracing.behaviour import behaviour, differences
from tests.tracing.cases import Case, X
from tests.tracing.hazardous import CASES
from wnconvert.errors import TracingError
from wnconvert.tracing.hazards import Hazard, HazardError
from wnconvert.tracing.tracing import trace

each = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


class Around(nn.Module):
    """It calls a layer, with what it knows nothing of, and goes on with the result."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers, self.after = nn.ModuleList([nn.Sequential(layer)]), nn.Linear(4, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.after(x)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        # hooks of modules whose inputs take no gradients
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        yield


@each
def test_a_module_with_a_hazard_has_no_graph(case: Case) -> None:
    with pytest.raises(TracingError) as caught:
        trace(case.build())
    assert case.hazard.value in str(caught.value)
    assert "\n" not in str(caught.value)


NESTED = {name: case for name, case in CASES.items() if case.nested}


@pytest.mark.parametrize("case", NESTED.values(), ids=list(NESTED))
def test_the_smallest_module_with_a_hazard_is_one_node(case: Case) -> None:
    graph_module = trace(Around(case.build()))
    assert list(graph_module.meta["opaque"]) == ["layers.0.0"]
    assert graph_module.meta["opaque"]["layers.0.0"].startswith(case.hazard.value)
    calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    assert calls == ["layers.0.0", "after"]
    expected = behaviour(Around(case.build()), case.calls[:1])
    assert not differences(behaviour(graph_module, case.calls[:1]), expected)


@pytest.mark.parametrize(
    "name", ["extra state", "a state hook", "a train of its own", "a flag", "an optional argument"]
)
def test_what_is_no_hazard_in_another_module_is_none(name: str) -> None:
    case = CASES[name]
    graph_module = trace(Around(case.build()))
    assert not graph_module.meta["opaque"]
    assert not differences(behaviour(graph_module, [(X,)]), behaviour(Around(case.build()), [(X,)]))


def test_a_call_that_a_loaded_pickle_would_make_twice_is_blamed_on_the_caller() -> None:
    with pytest.raises(TracingError, match=r"'layer' has a __call__ of its own"):
        trace(_Direct(CASES["an overridden call"].build()))
    whole = trace(nn.Sequential(_Direct(CASES["an overridden call"].build())))
    assert list(whole.meta["opaque"]) == ["0"]


class _Direct(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.after = layer, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(x))


# of those that are left out, a comment beside the case says why
WRONG = {name: case for name, case in CASES.items() if case.wrong}


@pytest.mark.parametrize("case", WRONG.values(), ids=list(WRONG))
def test_without_its_observation_a_hazard_gives_another_function(case: Case, monkeypatch) -> None:
    expected = behaviour(case.build(), case.calls)
    unobserved = {case.hazard, *case.also}
    monkeypatch.setattr("wnconvert.tracing.tracing.OBSERVED", frozenset(Hazard) - unobserved)
    graph_module = trace(case.build())
    try:
        seen = behaviour(graph_module, case.calls)
    except (RuntimeError, TypeError):  # a call that the model takes
        return
    assert differences(seen, expected)


# a value has nothing that could stand for it: where nobody looks for `VALUE`, the decision is an error all the same
@pytest.mark.parametrize("hazard", sorted(set(Hazard) - {Hazard.VALUE}, key=lambda hazard: hazard.name))
def test_no_observation_can_be_done_without(hazard: Hazard) -> None:
    assert any(case.wrong and not case.also for case in CASES.values() if case.hazard is hazard)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.hazard is Hazard.VALUE])
def test_decisions_are_errors_even_if_nobody_looks(name: str, monkeypatch) -> None:
    monkeypatch.setattr("wnconvert.tracing.tracing.OBSERVED", frozenset(Hazard) - {Hazard.VALUE})
    with pytest.raises(TracingError, match="it takes a decision on a value"):
        trace(CASES[name].build())


def test_a_hazard_is_told_with_its_detail() -> None:
    assert str(HazardError(Hazard.STATE)) == Hazard.STATE.value
    assert str(HazardError(Hazard.STATE, "'n' is set")) == f"{Hazard.STATE.value} ('n' is set)"
    assert HazardError(Hazard.STATE).hazard is Hazard.STATE
