"""What depends on parameters alone, and its value; what is random or has a side effect is refused."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.weights.nets import One, param
from wnconvert.graph.constants import Evaluator, ImpureError, ancestors, constant_nodes, is_mode_flag
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits


def weight_node(model):
    """Return the node that yields the weight of the last linear call."""
    return [node for node in model.graph.nodes if node.target is F.linear][-1].args[1]


def evaluate(expression, **contents):
    """Trace ``linear(x, expression(self))`` and return the value of its weight, and what calling it gives."""
    model = trace(One(lambda self, x: F.linear(x, expression(self)), **contents).eval())
    root = weight_node(model)
    value = Evaluator(model).value(root, ancestors(root))
    return value, model(torch.eye(value.shape[1])).t()


def test_constants_depend_on_parameters_and_buffers_alone():
    model = trace(One(lambda self, x: F.linear(x * self.a, self.a * 2 + self.b), a=param(3), b=param(3, 3)))
    names = {node.name for node in constant_nodes(model.graph)}
    assert names == {"a", "mul_1", "add", "b"} - ({"a_1"} - names)


def with_factory(factory, *args):
    """Return the graph of ``linear(x, a + factory(*args))``, which tracing alone would not give."""
    graph = torch.fx.Graph()
    x, a = graph.placeholder("x"), graph.get_attr("a")
    made = graph.call_function(factory, args)
    graph.output(graph.call_function(F.linear, (x, graph.call_function(torch.add, (a, made)))))
    return torch.fx.GraphModule(One(None, a=param(3, 3)), graph)


def test_a_call_without_inputs_takes_part_but_is_no_constant():
    model = with_factory(torch.ones, 3, 3)
    names = {node.name for node in constant_nodes(model.graph)}
    assert names == {"a", "add"}
    root = weight_node(model)
    assert same_bits(Evaluator(model).value(root, ancestors(root)), model.a.detach() + 1)


@pytest.mark.parametrize("factory", [torch.randn, torch.rand, torch.ops.aten.randn.default])
def test_a_random_call_without_inputs_makes_random_what_it_is_added_to(factory):
    model = with_factory(factory, *([[3, 3]] if "aten" in str(factory) else [3, 3]))
    state, root = torch.get_rng_state(), weight_node(model)
    with pytest.raises(ImpureError, match="random"):
        Evaluator(model).value(root, ancestors(root))
    assert torch.equal(torch.get_rng_state(), state)


def jittered(weight):
    return weight * (1 + random.random())


def test_user_code_that_is_random_in_another_way_is_refused():
    model = with_factory(torch.ones, 3, 3)
    root = weight_node(model)
    with model.graph.inserting_before(root):
        root.replace_input_with(root.args[0], model.graph.call_function(jittered, (root.args[0],)))
    with pytest.raises(ImpureError, match="evaluated twice"):
        Evaluator(model).value(root, ancestors(root))


def test_calls_in_place_are_evaluated_in_the_order_of_the_graph():
    def expression(self):
        first = self.w * 2
        before = torch.sinc(first)
        return first.mul_(3) + before

    value, output = evaluate(expression, w=param(3, 3))
    assert same_bits(value.detach(), output.detach().contiguous())


def test_a_module_that_updates_its_statistics_is_refused():
    model = trace(One(lambda self, x: F.linear(x, self.norm(self.w)), w=param(3, 3), norm=nn.BatchNorm1d(3)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    root = weight_node(model)
    with pytest.raises(ImpureError, match="in place"):
        Evaluator(model).value(root, ancestors(root))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_ancestors_come_before_their_users():
    model = trace(One(lambda self, x: F.linear(x, (self.a * 2 + self.b).exp()), a=param(3, 3), b=param(3, 3)))
    order = ancestors(weight_node(model))
    assert len(order) == 5
    assert all(order.index(child) < order.index(node) for node in order for child in node.all_input_nodes)


def test_ancestors_leave_out_what_is_known():
    model = trace(One(lambda self, x: F.linear(x, (self.a * 2).exp()), a=param(3, 3)))
    root = weight_node(model)
    assert ancestors(root, stop=[root.args[0]]) == [root]


EXPRESSIONS = {
    "arithmetic": lambda self: self.w * self.s + 1,
    "method": lambda self: self.w.exp().clamp(min=0.5),
    "function": lambda self: F.normalize(self.w, dim=1),
    "unknown function": lambda self: torch.sinc(self.w),
    "module": lambda self: self.scale(self.w),
    "inner in-place": lambda self: (self.w + 1).mul_(2),
    "keywords": lambda self: torch.sum(input=torch.stack([self.w, self.w]), dim=0),
}


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_the_value_has_the_bits_of_the_forward(case):
    value, output = evaluate(EXPRESSIONS[case], w=param(3, 3), s=param(1), scale=nn.LayerNorm(3))
    assert same_bits(value.detach(), output.detach().contiguous())


RANDOM = {
    "rand_like": lambda self: self.w + torch.rand_like(self.w),
    "functional dropout": lambda self: F.dropout(self.w, 0.5, True),
    "bernoulli": lambda self: torch.bernoulli(self.w.sigmoid()),
    "normal_": lambda self: torch.zeros_like(self.w).normal_(),
}


@pytest.mark.parametrize("case", RANDOM)
def test_random_values_are_refused_and_the_generator_is_left_alone(case):
    state = torch.get_rng_state()
    model = One(lambda self, x: F.linear(x, RANDOM[case](self)), w=nn.Parameter(torch.ones(3, 3)))
    traced = trace(model)
    root = weight_node(traced)
    with pytest.raises(ImpureError, match="random"):
        Evaluator(traced).value(root, ancestors(root))
    assert torch.equal(torch.get_rng_state(), state)


IN_PLACE = {
    "method": lambda self: self.w.mul_(2),
    "through a view": lambda self: self.w.view(9).add_(1).view(3, 3),
    "out": lambda self: torch.add(self.w, 1, out=self.w),
    "batch norm statistics": lambda self: F.batch_norm(self.w, self.mean, self.var, training=True),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_changes_in_place_are_refused_and_nothing_is_changed(case):
    model = One(lambda self, x: F.linear(x, IN_PLACE[case](self)), w=param(3, 3))
    model.register_buffer("mean", torch.zeros(3))
    model.register_buffer("var", torch.ones(3))
    traced = trace(model)
    before = {name: tensor.detach().clone() for name, tensor in traced.state_dict().items()}
    root = weight_node(traced)
    with pytest.raises(ImpureError, match="in place"):
        Evaluator(traced).value(root, ancestors(root))
    assert all(same_bits(tensor, before[name]) for name, tensor in traced.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_a_dropout_is_random_in_either_mode(training):
    model = trace(One(lambda self, x: F.linear(x, self.drop(self.w)), w=param(3, 3), drop=nn.Dropout(0.5)))
    model.train(training)
    root = weight_node(model)
    with pytest.raises(ImpureError, match="random in training: Dropout"):
        Evaluator(model).value(root, ancestors(root))


def test_what_is_no_tensor_is_refused():
    model = trace(One(lambda self, x: x + self.w.stride(0), w=param(3)))
    size = next(node for node in model.graph.nodes if node.target == "stride")
    with pytest.raises(ImpureError, match="int, not a tensor"):
        Evaluator(model).value(size, ancestors(size))


def test_what_is_shared_is_computed_once():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(1)
            return x * 2

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.count = param(3, 3), Counting()

        def forward(self, x):
            doubled = self.count(self.w)
            return F.linear(x, doubled + 1) + F.linear(x, doubled + 2)

    model = Model()
    graph = torch.fx.Tracer()
    graph.is_leaf_module = lambda module, name: isinstance(module, Counting)
    traced = torch.fx.GraphModule(model, graph.trace(model))
    roots = [node.args[1] for node in traced.graph.nodes if node.target is F.linear]
    shared = {roots[0].args[0]}
    evaluator = Evaluator(traced)
    values = [evaluator.value(root, ancestors(root), shared) for root in roots]
    # once more than that to see that it gives the same again, however many roots there are
    assert len(calls) == 2
    assert same_bits(values[0], model.w.detach() * 2 + 1)
    assert same_bits(values[1], model.w.detach() * 2 + 2)


def test_a_mode_flag_is_a_dropout_of_everything():
    assert is_mode_flag(nn.Dropout(1.0))
    assert not is_mode_flag(nn.Dropout(0.5))
    assert not is_mode_flag(nn.AlphaDropout(1.0))
