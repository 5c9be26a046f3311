"""Tracing that does not give up, and that leaves no trace in the model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Proxy

import wnconvert
from wnconvert.errors import TracingError
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
        "layers.0.inner.weight": "opaque region",
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


# what a call leaves out


class Masked(nn.Module):
    """What it computes depends on whether a mask is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.inner(x)
        return x if mask is None else x * mask


class Passing(Masked):
    """It hands an optional argument on."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.inner(x).unsqueeze(0)
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


class Keywords(Masked):
    """It takes whatever it is given."""

    def forward(self, x: Tensor, **options: Tensor) -> Tensor:
        mask = options.get("mask")
        return self.inner(x) if mask is None else self.inner(x) * mask


@pytest.mark.parametrize("kind", [Masked, Keywords])
def test_a_model_that_decides_by_an_optional_argument_is_converted_in_place(kind: type[Masked]) -> None:
    """A graph of either way would be wrong for half of the calls."""
    model, x, mask = kind(), torch.randn(2, 4), torch.randn(2, 4)
    with pytest.raises(TracingError, match="depends on which optional arguments are given"):
        trace(model)
    applied, report = wnconvert.apply(model)
    assert [entry.how for entry in report.converted] == ["in place"]
    assert torch.equal(applied(x), model(x))
    assert torch.equal(applied(x, mask=mask), model(x, mask=mask))


def test_an_optional_argument_that_is_only_handed_on_stays_one() -> None:
    model, x, mask = Passing(), torch.randn(2, 4), torch.ones(2, 2, dtype=torch.bool).tril()
    applied, report = wnconvert.apply(model)
    assert [entry.how for entry in report.converted] == ["graph"]
    assert torch.equal(applied(x), model(x))
    assert torch.equal(applied(x, mask), model(x, mask))


class Constants(Masked):
    """It meets a tensor that is no attribute of it, which tracing names anew each time."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.inner(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]) * scale


def test_constants_are_compared_by_value() -> None:
    model, x = Constants(), torch.randn(2, 4)
    traced = trace(model)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(traced(x, 0.5), model(x, 0.5))
    assert not [name for name in vars(model) if name.startswith("_tensor_constant")]


# what is known of the model's own tensors


class Shaped(nn.Module):
    """It looks at the shapes of its own tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("table", torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight.size(1) == self.weight.size()[-1]
        assert len(self.table) == self.table.ndim
        if self.weight.dim() == 2 and self.table.shape[0] * 3 == self.table.numel():
            x = F.linear(x, self.weight)
        return (x[..., None, :] + self.table).to(self.weight.dtype)


def test_shapes_of_own_tensors_are_known_and_their_dtype_is_not_fixed() -> None:
    model, x = Shaped(), torch.randn(2, 4)
    traced = trace(model)
    assert torch.equal(traced(x), model(x))
    assert traced.double()(x.double()).dtype == torch.float64


def test_a_plain_model_without_a_graph_is_no_error_to_fold() -> None:
    folded, report = wnconvert.fold(Masked())
    assert isinstance(folded, Masked)
    assert [(entry.fqn, entry.already) for entry in report.skipped] == [("inner.weight", True)]


def test_what_no_weighted_op_reads_is_reported() -> None:
    class Positions(Masked):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.unused = nn.Parameter(torch.randn(2, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.positions

    report = wnconvert.apply(Positions()).report
    assert {entry.fqn: entry.reason for entry in report.skipped} == {
        "positions": "no weighted op of the graph reads it",
        "unused.weight": "no weighted op of the graph reads it",
    }


def test_a_forward_that_assigns_data_has_no_graph() -> None:
    class Iterating(nn.Linear):
        """As the copied SpectralNorm wrappers do in each forward: tracing would lose the step without a word."""

        def forward(self, input: Tensor) -> Tensor:
            self.weight.data = self.weight.data * 0.5
            return super().forward(input)

    model = Network(Iterating(4, 4))
    _, tracer = traced(model)
    assert list(tracer.opaque) == ["layers.0"]
    assert "assigns 'data'" in tracer.opaque["layers.0"]
