"""Tracing that does not give up, and that leaves no trace in the model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Proxy

import wnconvert
from wnconvert.graph.tracer import PatientTracer
from wnconvert.graph.tracing import trace


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """A helper that inspects its argument, which a proxy cannot answer."""
    total = max(kernel - 1 - x.shape[-1] % 2, 0)
    return F.pad(x, (total // 2, total - total // 2))


def split_in_two(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[1] % 2:
        raise ValueError("odd")
    return x[:, ::2], x[:, 1::2]


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_same(x, 3))


class Deciding(nn.Module):
    """Its own forward takes a decision on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() < 1e9 else x


class Pair(nn.Module):
    """It returns what a helper makes that inspects its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return split_in_two(self.first(x))


class Network(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.layers = nn.ModuleList(layers)
        self.after = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for layer in self.layers:
            x = layer(x)
        return self.after(x)


def traced(model: nn.Module) -> tuple[GraphModule, PatientTracer]:
    tracer = PatientTracer()
    return GraphModule(model, tracer.trace(model)), tracer


def test_a_helper_that_inspects_shapes_becomes_one_node() -> None:
    model, x = Same(), torch.randn(1, 2, 9)
    with pytest.raises(Exception, match=r"traced|Proxy|interpreted"):
        torch.fx.symbolic_trace(model)
    graph_module, tracer = traced(model)
    assert [node.target for node in graph_module.graph.nodes if node.op == "call_function"] == [pad_same]
    assert list(tracer.functions) == [f"{__name__}.pad_same"]
    assert not tracer.opaque
    for length in (9, 10):
        x = torch.randn(1, 2, length)
        assert torch.equal(graph_module(x), model(x))


def test_the_helper_is_afterwards_what_it_was() -> None:
    before = pad_same
    traced(Same())
    assert pad_same is before


def test_a_module_that_takes_decisions_becomes_one_node() -> None:
    model = Network(Deciding(), nn.ReLU())
    graph_module, tracer = traced(model)
    assert list(tracer.opaque) == ["layers.0"]
    assert "control flow" in tracer.opaque["layers.0"]
    assert [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"] == [
        "before",
        "layers.0",
        "layers.1",
        "after",
    ]
    for x in (torch.randn(2, 4), torch.full((2, 4), 1e10)):
        assert torch.equal(graph_module(x), model(x))


def test_the_innermost_module_is_the_one_node() -> None:
    model = Network(nn.Sequential(nn.Linear(4, 4), nn.Sequential(Deciding())))
    _, tracer = traced(model)
    assert list(tracer.opaque) == ["layers.0.1.0"]


def test_a_caller_that_cannot_use_one_node_becomes_one_itself() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([part for part in self.pair(x)], 1)  # noqa: C416 - iterating is what fails

    model, x = Network(Sum()), torch.randn(3, 4)
    graph_module, tracer = traced(model)
    assert "layers.0" in tracer.opaque
    assert torch.equal(graph_module(x), model(x))


def test_a_model_that_fails_itself_is_an_error_in_one_line() -> None:
    with pytest.raises(wnconvert.TracingError, match="cannot trace 'Deciding'") as caught:
        trace(Deciding())
    assert "\n" not in str(caught.value)


def test_nothing_of_the_trial_stays_in_the_graph() -> None:
    class Late(nn.Module):
        """It fails after it has read a parameter that others read too."""

        def __init__(self, shared: nn.Parameter) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x: Tensor) -> Tensor:
            x = x @ self.shared
            return x if x.sum() < 1e9 else -x

    shared = nn.Parameter(torch.randn(4, 4))
    late = Late(shared)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = late

        def forward(self, x: Tensor) -> Tensor:
            return self.late(x) @ self.late.shared

    model, x = Reader(), torch.randn(2, 4)
    graph_module, _ = traced(model)
    graph_module.graph.lint()
    assert [node.op for node in graph_module.graph.nodes] == [
        "placeholder",
        "call_module",
        "get_attr",
        "call_function",
        "output",
    ]
    assert torch.equal(graph_module(x), model(x))


def test_a_forward_that_stores_its_input_keeps_no_proxy() -> None:
    class Storing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            self.extra = x
            return self.linear(x)

    model = Network(Storing())
    before = copy.deepcopy(vars(model.layers[0]))
    trace(model)
    assert vars(model.layers[0]).keys() == before.keys()
    assert not isinstance(model.layers[0].last, Proxy)


def test_annotations_do_not_hinder_pickling() -> None:
    # this file has them as texts, and with "|"
    class Annotated(nn.Linear):
        def forward(self, input: Tensor, scale: Tensor | None = None) -> Tensor:
            return super().forward(input)

    assert all(node.type is None for node in trace(Annotated(2, 2)).graph.nodes)


def test_weights_in_one_node_modules_are_converted_in_place() -> None:
    model, x = Network(Deciding()), torch.randn(2, 4)
    converted, report = wnconvert.apply(model)
    assert {entry.fqn: entry.how for entry in report.converted} == {
        "before.weight": "graph",
        "layers.0.inner.weight": "in place",
        "after.weight": "graph",
    }
    assert torch.equal(converted(x), model(x))
    folded, _ = wnconvert.fold(converted)
    assert list(folded.state_dict()) == list(model.state_dict())
    assert torch.equal(folded(x), model(x))


def test_a_weight_read_inside_and_outside_stays_one() -> None:
    model, x = Network(Deciding()), torch.randn(2, 4)
    model.layers[0].inner.weight = model.before.weight
    converted, report = wnconvert.apply(model)
    assert torch.equal(converted(x), model(x))
    assert [entry.fqn for entry in report.converted] == ["after.weight", "before.weight"]
    with torch.no_grad():
        converted.before.weight_g.mul_(2)
    assert torch.equal(converted.layers[0].inner.weight, 2 * model.before.weight)
