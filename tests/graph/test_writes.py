"""What a graph changes in place is seen, through whichever name, view or call it does, and not folded."""

from __future__ import annotations

import operator
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Tracer

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.weights.nets import One, X, folded, param
from wnconvert import ApplyPass, FoldPass, TracingError
from wnconvert.graph.writes import may_alias, may_be, written_by
from wnconvert.tracing.tracing import trace


def test_an_expression_that_updates_a_buffer_is_skipped_and_the_buffer_left_alone():
    def forward(self, x):
        self.mean.mul_(0.9).add_(self.w.mean(1, keepdim=True), alpha=0.1)
        return F.linear(x, self.w - self.mean)

    model = One(forward, w=param(5, 3))
    model.register_buffer("mean", torch.ones(5, 1))
    model = traced_by_torch(model)
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert not report.modified
    assert "changes 'mean' in place" in report.skipped[0].reason
    before.assert_same(model)


def test_running_statistics_are_an_update_of_a_buffer():
    def forward(self, x):
        return F.linear(x, F.batch_norm(self.w, self.mean, self.var, training=True))

    model = One(forward, w=param(5, 3))
    model.register_buffer("mean", torch.zeros(3))
    model.register_buffer("var", torch.ones(3))
    model = trace(model)
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert not report.modified
    assert "in place" in report.skipped[0].reason
    before.assert_same(model)


def traced_by_torch(model):
    """Return a graph that ours refuses: it updates a buffer from buffers alone, which loading a pickle would do."""
    with pytest.raises(TracingError, match="from buffers alone"):
        trace(model)
    tracer = Tracer()
    tracer.proxy_buffer_attributes = True
    return GraphModule(model, tracer.trace(model))


def written(name, change):
    """Return a forward that changes ``self.<name>`` in a statement of its own, and then composes a weight."""

    def forward(self, x):
        change(getattr(self, name))
        return F.linear(x, F.normalize(self.w))

    return forward


CHANGES = {
    "method": lambda w: w.mul_(2),
    "data": lambda w: w.data.mul_(2),
    "detach": lambda w: w.detach().mul_(2),
    "view": lambda w: w.view(-1).add_(1),
    "two views": lambda w: w.t().reshape(3, 5).fill_(1),
    "row": lambda w: w[0].add_(1),
    "no conversion": lambda w: w.float().mul_(2),
    "positional inplace": lambda w: F.relu(w, True),
    "dropout that does nothing": lambda w: F.dropout(w, 0.5, False).mul_(2),
    "out": lambda w: torch.mul(w, 2, out=w.data),
    "expanded": lambda w: w.expand(5, 3).copy_(w),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_the_graph_changes_in_place_is_not_folded(case):
    model = trace(One(written("w", CHANGES[case]), w=nn.Parameter(torch.ones(5, 3), requires_grad=False)))
    before = Snapshot(model)
    report = FoldPass().call(model).report
    assert not report.modified
    assert re.search("changes 'w' in place", report.skipped[0].reason)
    before.assert_same(model)


def test_augmented_assignments_to_views_are_changes_in_place():
    graph = torch.fx.Graph()
    x, w = graph.placeholder("x"), graph.get_attr("w")
    graph.call_function(operator.imul, (graph.call_function(operator.getitem, (w, 0)), 2))
    graph.call_function(torch.ops.aten.mul_.Tensor, (graph.call_function(torch.ops.aten.detach.default, (w,)), 2))
    graph.output(graph.call_function(F.linear, (x, graph.call_function(F.normalize, (w,)))))
    model = torch.fx.GraphModule(One(None, w=param(5, 3, requires_grad=False)), graph)
    assert [entry.reason for entry in FoldPass().call(model).report.skipped] == ["node 'imul' changes 'w' in place"]


def test_a_write_is_seen_beside_one_that_only_runs_in_training():
    model = trace(nn.Sequential(nn.Linear(3, 3)))
    ApplyPass("spectral_norm").call(model)
    first = next(node for node in model.graph.nodes if node.target == "0.weight_u")
    for place in (model.graph.inserting_before(first), model.graph.inserting_after(first.next)):
        with place:
            model.graph.call_method("mul_", (model.graph.get_attr("0.weight_u"), 2))
        assert not FoldPass().call(model).modified
        model.graph.erase_node(next(node for node in model.graph.nodes if node.target == "mul_"))
    assert FoldPass().call(model).modified


def test_what_a_factory_draws_is_not_folded():
    graph = torch.fx.Graph()
    x, w = graph.placeholder("x"), graph.get_attr("w")
    noise = graph.call_function(torch.randn, (5, 3))
    graph.output(graph.call_function(F.linear, (x, graph.call_function(torch.add, (w, noise)))))
    model = torch.fx.GraphModule(One(None, w=param(5, 3)), graph)
    (skipped,) = FoldPass().call(model).report.skipped
    assert (skipped.fqn, skipped.already) == ("w", False)
    assert "random" in skipped.reason


def test_what_the_graph_changes_under_another_name_is_not_folded():
    model = One(written("other", lambda w: w.mul_(2)), w=param(5, 3, requires_grad=False))
    model.register_buffer("other", model.w.detach()[1:])
    model = traced_by_torch(model)
    assert not FoldPass().call(model).modified


def after(self, x):
    w = F.normalize(self.w)
    y = F.linear(x, w)
    w.mul_(2)
    return y + F.linear(x, w)


def before_the_end(self, x):
    w = self.w * 2
    w.view(-1).mul_(3)
    return F.linear(x, F.normalize(w))


def of_one_of_two(self, x):
    common = self.w * 2
    return F.linear(x, common.mul_(3)) + F.linear(x, common + 1)


def seen_by_another(self, x):
    common = self.w * 2
    y = x * common.sum()
    return F.linear(y, common.mul_(3)) + common.sum()


WRITTEN_TO = {
    "after its use": after,
    "before its end": before_the_end,
    "in another expression": of_one_of_two,
    "seen by another": seen_by_another,
}


@pytest.mark.parametrize("case", WRITTEN_TO)
def test_an_expression_that_is_written_to_is_not_folded(case):
    model = trace(One(WRITTEN_TO[case], w=param(5, 3)).eval())
    before, expected = Snapshot(model), outputs_of(model, (X,))
    report = FoldPass().call(model).report
    assert not report.modified
    assert all("in place" in entry.reason for entry in report.skipped)
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, (X,)), expected)


def test_an_expression_that_writes_to_what_is_its_own_is_folded():
    def forward(self, x):
        w = (self.w * 2).add_(1)
        return F.linear(x, w.abs_())

    folded(One(forward, w=param(5, 3)), X)


def test_a_leaf_that_the_graph_changes_is_seen_by_every_expression_that_reads_it():
    def forward(self, x):
        scale = self.s
        y = F.linear(x, self.a * scale) + F.linear(x, self.b * scale)
        self.s.data.mul_(2)
        return y

    model = trace(One(forward, a=param(5, 3), b=param(5, 3), s=param(1)))
    assert not FoldPass().call(model).modified


# what a single call does

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "written"),
    [
        ("mul_", ("x", 2), {}, {"x"}),
        ("copy_", ("x", "y"), {}, {"x"}),
        ("mul", ("x", 2), {}, set()),
        (torch.mul, ("x", 2), {"out": "y"}, {"y"}),
        (torch.aminmax, ("x",), {"out": ("y", "z")}, {"y", "z"}),
        (F.relu, (), {"input": "x", "inplace": True}, {"x"}),
        (F.relu, ("x",), {"inplace": False}, set()),
        (aten.mul_.Tensor, ("x", "y"), {}, {"x"}),
        (aten.add.out, ("x", "y"), {"out": "z"}, {"z"}),
        (aten._fused_sgd_.default, (["x"], ["y"], ["z"]), {}, {"x", "y", "z"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),  # what else is printed is not the same in every process
)
def test_the_inputs_that_a_call_writes_to(target, args, kwargs, written):
    graph = torch.fx.Graph()
    names = {name: graph.placeholder(name) for name in ("x", "y", "z")}

    def filled(value):
        if isinstance(value, (tuple, list)):
            return type(value)(map(filled, value))
        return names.get(value, value) if isinstance(value, str) else value

    kind = "call_method" if isinstance(target, str) else "call_function"
    node = graph.create_node(kind, target, filled(args), {key: filled(value) for key, value in kwargs.items()})
    assert {each.name for each in written_by(node)} == written


@pytest.mark.parametrize("inplace", [False, True])
def test_a_module_may_write_to_its_input(inplace):
    graph = torch.fx.Graph()
    node = graph.call_module("act", (graph.placeholder("x"),))
    GraphModule(nn.ModuleDict({"act": nn.ReLU(inplace)}), graph)
    assert [each.name for each in written_by(node)] == (["x"] if inplace else [])
    assert may_alias(node)


@pytest.mark.parametrize(
    ("target", "alias"),
    [
        *(("view", True), ("contiguous", True), ("type_as", True), ("data", True), ("mul", False), ("clone", False)),
        *((F.dropout, True), (torch.einsum, True), (operator.getitem, True), (operator.add, False)),
        *((F.normalize, False), (aten.view.default, True), (aten.mul.Tensor, False)),
        (aten.native_dropout.default, True),
        # nothing is known of it
        (written, True),
    ],
    ids=lambda value: getattr(value, "__name__", None),  # what else is printed is not the same in every process
)
def test_what_may_give_the_memory_of_its_input(target, alias):
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    node = graph.create_node("call_method" if isinstance(target, str) else "call_function", target, (x,))
    assert may_alias(node) is alias
    view = graph.call_method("t", (node,))
    assert list(may_be(view)) == [view, node, x] if alias else [view, node]
