"""A fold puts the fetches of weights back where they stood before apply, node for node."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.snapshot import Snapshot, assert_same_outputs, graph_listing, outputs_of
from tests.weights.nets import One, X, param
from wnconvert import ApplyPass, FoldPass, Selection
from wnconvert.tracing.tracing import trace


def early(self, x):
    w = self.fc.weight
    return F.linear(self.fc(x * 1).relu(), w)


def between(self, x):
    y = self.fc(x)
    w = self.fc.weight
    return F.linear(y.relu(), w)


def behind_a_view(self, x):
    w = self.emb.weight
    y = self.fc(x + 1)
    return (y @ w.t()).relu() + w.sum()


FORWARDS = {"early": early, "between": between, "behind a view": behind_a_view}


def layers(tied):
    fc, emb = nn.Linear(3, 3), nn.Embedding(3, 3)
    if tied:
        emb.weight = fc.weight
    return {"fc": fc, "emb": emb}


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", FORWARDS)
def test_a_weight_of_a_module_that_is_also_fetched(case, tied, copied):
    model = trace(One(FORWARDS[case], **layers(tied)).eval())
    before, expected = Snapshot(model), outputs_of(model, (X,))
    ApplyPass().call(model)
    if copied:
        model = copy.deepcopy(model)
    FoldPass().call(model)
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, (X,)), expected)


def by_hand(fetch_late, unused=False):
    """Return a graph that fetches two weights twice each."""
    graph = torch.fx.Graph()
    if not fetch_late:
        first = [graph.get_attr("w"), graph.get_attr("v"), graph.get_attr("w"), graph.get_attr("v")]
    x = graph.placeholder("x")
    for index in range(2):
        w = graph.get_attr("w") if fetch_late else first[index * 2]
        v = graph.get_attr("v") if fetch_late else first[index * 2 + 1]
        if unused:
            graph.get_attr("w")
        x = graph.call_function(F.linear, (graph.call_function(torch.relu, (x,)), w))
        x = graph.call_function(F.linear, (x, v))
    graph.output(x)
    return torch.fx.GraphModule(One(None, w=param(3, 3), v=param(3, 3)), graph)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr:UserWarning")
@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("fetch_late", [False, True])
def test_several_fetches_of_one_weight(fetch_late, unused):
    model = by_hand(fetch_late, unused)
    before = graph_listing(model)
    ApplyPass("network_norm").call(model)
    FoldPass().call(model)
    assert graph_listing(model) == before


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("first", "last"), ["vw", "wv"])
def test_weights_that_are_converted_one_after_another(first, last, at_once):
    model = by_hand(fetch_late=False)
    before = graph_listing(model)
    ApplyPass(selection=Selection(include=(first,))).call(model)
    ApplyPass().call(model)
    if not at_once:
        FoldPass(selection=Selection(include=(last,))).call(model)
    FoldPass().call(model)
    assert graph_listing(model) == before


def test_a_graph_that_was_changed_meanwhile_is_left_in_order():
    model = by_hand(fetch_late=True)
    ApplyPass().call(model)
    second = [node for node in model.graph.nodes if node.target is F.linear][2]
    second.replace_all_uses_with(second.args[0])
    model.graph.eliminate_dead_code()
    model.recompile()
    expected = outputs_of(model, (X,))
    FoldPass().call(model)
    model.graph.lint()
    assert_same_outputs(outputs_of(model, (X,)), expected)
