"""Weighted ops of other code: registered by hand or by entry point, and then converted like torch's."""

from __future__ import annotations

import copy
from importlib.metadata import EntryPoint

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

import wnconvert
from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import sample
from wnconvert import ApplyPass, FoldPass, WeightedOpRule, find_weighted_ops, registry
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.registry import Registry
from wnconvert.tracing import helpers
from wnconvert.weighted_op import WEIGHTED_OPS, register_weighted_op
from wnconvert.weights import ops

X = torch.linspace(-1, 1, 8).view(2, 4)


@torch.library.custom_op("wnconvert_tests::gated_linear", mutates_args=())
def gated_linear(input: Tensor, weight: Tensor, gate: float = 0.5) -> Tensor:
    return torch.sigmoid(input * gate) @ weight.t()


@gated_linear.register_fake
def _(input, weight, gate=0.5):
    return input.new_empty(*input.shape[:-1], weight.shape[0])


def _backward(context, gradient):
    x, weight = context.saved_tensors
    gated = torch.sigmoid(x * 0.5)
    return (gradient @ weight) * gated * (1 - gated) * 0.5, gradient.t() @ gated, None


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


gated_linear.register_autograd(_backward, setup_context=_save)


def scaled_linear(x: Tensor, w: Tensor) -> Tensor:
    """Looks at its weight in a way that tells nothing of it."""
    return F.linear(x, torch.stack([row * 2 for row in w.unbind()]))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(sample(3, 4).float())
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(torch.ops.wnconvert_tests.gated_linear(x, self.weight))


class Scaled(Gated):
    def forward(self, x):
        return self.out(scaled_linear(x, self.weight))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Registry[type[WeightedOpRule]]:
    """A registry of its own."""
    fresh: Registry[type[WeightedOpRule]] = Registry("weighted op", None, "wnconvert.ops", WeightedOpRule)
    monkeypatch.setattr("wnconvert.weighted_op.WEIGHTED_OPS", fresh)
    return fresh


@pytest.fixture
def known(clean) -> None:
    @register_weighted_op
    class GatedLinear(WeightedOpRule):
        name = "gated_linear"
        targets = (torch.ops.wnconvert_tests.gated_linear,)
        weight = (1, "weight")

    @register_weighted_op
    class ScaledLinear(WeightedOpRule):
        name = "scaled_linear"
        targets = (scaled_linear,)
        weight = (1, "w")


MODELS = [(Gated, "gated_linear"), (Scaled, "scaled_linear")]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("kind", "op"), MODELS)
def test_an_unknown_op_is_none(kind, op):
    assert op not in {name for each in find_weighted_ops(kind()) for name in each.ops}


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("kind", "op"), MODELS)
def test_a_module_is_found_applied_and_folded(kind, op):
    model = kind()
    (found, _) = find_weighted_ops(model)
    assert (found.fqn, found.ops, found.output_dims) == ("weight", (op,), (0,))
    expected = model(X)
    converted, report = wnconvert.apply(model, dim="output")
    assert {entry.fqn: entry.dims for entry in report.converted} == {"weight": (1,), "out.weight": (1,)}
    assert torch.equal(converted(X), expected)
    folded, _ = wnconvert.fold(converted)
    assert torch.equal(folded.weight, model.weight)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("kind", "op"), MODELS)
def test_a_graph_is_traced_applied_and_folded(kind, op):
    model = wnconvert.trace(kind())
    assert op in {getattr(node.target, "__name__", "").partition(".")[0] for node in model.graph.nodes}
    before, expected = Snapshot(model), outputs_of(model, (X,))
    report = ApplyPass().call(model).report
    assert [(entry.fqn, entry.op) for entry in report.converted] == [("weight", op), ("out.weight", "linear")]
    assert_same_outputs(outputs_of(model, (X,)), expected)
    model(X).sum().backward()
    assert model.weight_v.grad is not None
    FoldPass().call(model)
    before.assert_same(model)


@pytest.mark.usefixtures("known")
def test_a_call_of_a_known_function_is_one_node_that_does_what_the_model_does():
    model = Scaled()
    graph_module = wnconvert.trace(model)
    assert [node.target for node in graph_module.graph.nodes if node.op == "call_function"] == [scaled_linear]
    assert torch.equal(graph_module(X), model(X))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("decomposed", [False, True])
def test_the_overload_in_an_exported_graph_is_found_and_converted(decomposed):
    program = torch.export.export(Gated(), (X,))
    model = (program.run_decompositions() if decomposed else program).module()
    targets = {node.target for node in model.graph.nodes}
    assert torch.ops.wnconvert_tests.gated_linear.default in targets
    expected = model(X)
    before = copy.deepcopy(model.state_dict())
    report = ApplyPass()(model).report
    assert "gated_linear" in {entry.op for entry in report.converted}
    assert torch.equal(model(X), expected)
    assert FoldPass()(model).modified
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def _graph(target, **kwargs) -> GraphModule:
    root, graph = nn.Module(), Graph()
    root.w = nn.Parameter(sample(3, 4, 5).float())
    args = () if kwargs else (graph.placeholder("x"), graph.get_attr("w"))
    kwargs = {name: graph.get_attr("w") if value == "w" else graph.placeholder(name) for name, value in kwargs.items()}
    call = graph.call_method if isinstance(target, str) else graph.call_function
    graph.output(call(target, args, kwargs))
    return GraphModule(root, graph)


@pytest.mark.usefixtures("clean")
def test_dims_count_from_the_end_and_may_be_several():
    @register_weighted_op
    class Fancy(WeightedOpRule):
        name = "fancy"
        targets = (torch.lerp, "fancy")
        weight = (1, "w")
        output_dims = (0, -1)

    for model in (_graph(torch.lerp), _graph("fancy")):
        (found,) = find_weighted_ops(model)
        assert (found.ops, found.output_dims) == (("fancy",), (0, 2))
    (found,) = find_weighted_ops(_graph(torch.lerp, x="x", w="w"))
    assert found.fqn == "w"


@pytest.mark.usefixtures("clean")
def test_output_dims_may_depend_on_the_call():
    @register_weighted_op
    class Unknown(WeightedOpRule):
        name = "unknown"
        targets = (torch.lerp,)
        weight = (1, "w")

        @classmethod
        def output_dims_of(cls, call, shape):
            assert call.target is torch.lerp
            return

    (found,) = find_weighted_ops(_graph(torch.lerp))
    assert found.output_dims is None


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"name": "x", "targets": (print,)}, "has no weight"),
        ({}, "has no name, targets, weight"),
        ({"name": "x", "targets": [print], "weight": (1, "w")}, "targets of weighted op 'x'"),
        ({"name": "x", "targets": (3,), "weight": (1, "w")}, "targets of weighted op 'x'"),
        ({"name": "x", "targets": (print,), "weight": 1}, "weight of weighted op 'x' is 1"),
        ({"name": "x", "targets": (print,), "weight": ("w", 1)}, "weight of weighted op 'x'"),
    ],
)
def test_a_class_that_says_too_little_is_refused(members, message):
    with pytest.raises(OptionError, match=message):
        type("Wrong", (WeightedOpRule,), members)


class Plugged(WeightedOpRule):
    name = "plugged"
    targets = (torch.lerp,)
    weight = (1, "w")


def test_an_op_of_another_distribution_is_found(monkeypatch, clean):
    point = EntryPoint("plugged", f"{__name__}:Plugged", "wnconvert.ops")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Plugged)
    monkeypatch.setattr(registry, "offered", lambda: {"wnconvert.ops": [("plugs 1", point)]})
    (found,) = find_weighted_ops(_graph(torch.lerp))
    assert found.ops == ("plugged",)
    assert list(clean) == ["plugged"]


@pytest.mark.usefixtures("clean")
def test_nothing_is_registered_by_itself():
    assert list(WEIGHTED_OPS) == []
    with pytest.raises(NothingToConvertError):
        wnconvert.apply(_graph(torch.lerp))
    assert ops.known_rules() is ops.known_rules()
    assert not [each for each in helpers.own_names(Scaled) if each.name == "scaled_linear"]
