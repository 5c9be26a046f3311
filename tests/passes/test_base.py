"""What the passes need of a graph module, what holds of it afterwards, and what a manager makes of errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, GraphModule
from torch.fx.passes.infra.pass_manager import PassManager

import wnconvert
from tests.models import build
from wnconvert import ApplyPass, FoldPass
from wnconvert.errors import KindError, VerificationError

PASSES = [ApplyPass, FoldPass]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv1d(2, 3, 1), nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(self.conv(x).mean(-1))


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Network(), (torch.randn(1, 2, 4),))


@pytest.mark.parametrize("pass_", PASSES)
def test_a_plain_module_is_refused_with_the_way_out(pass_):
    with pytest.raises(KindError, match=r"a Linear is no torch\.fx\.GraphModule; trace it with wnconvert\.trace"):
        pass_()(nn.Linear(2, 2))


@pytest.mark.parametrize("pass_", PASSES)
def test_the_graph_of_a_program_is_refused_whose_weights_are_its_inputs(pass_, program):
    with pytest.raises(KindError, match=r"'conv1d' takes its weight from an input .* convert program\.module\(\)"):
        pass_()(program.graph_module)
    assert ApplyPass()(program.module()).modified


@pytest.mark.parametrize("convert", [wnconvert.apply, wnconvert.fold])
def test_so_it_is_by_the_functions(convert, program):
    with pytest.raises(KindError, match=r"convert program\.module\(\)"):
        convert(program.graph_module)


@pytest.mark.parametrize("layer", [F.linear, torch.ops.aten.linear.default])
@pytest.mark.parametrize("permuted", [False, True])
def test_the_weight_of_a_layer_is_seen_below_its_permutations(layer, permuted):
    graph = Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("w")
    weight = graph.call_method("t", (weight,)) if permuted else weight
    graph.output(graph.call_function(layer, (x, weight)))
    with pytest.raises(KindError, match="takes its weight from an input"):
        ApplyPass()(GraphModule(nn.Module(), graph))


def test_a_product_of_inputs_is_no_layer():
    graph = Graph()
    graph.output(graph.call_function(torch.matmul, (graph.placeholder("x"), graph.placeholder("y"))))
    assert not ApplyPass()(GraphModule(nn.Module(), graph)).modified


def test_a_weight_that_an_input_gives_is_left_alone_in_a_model_that_has_others():
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x, weight):
            return F.linear(self.layer(x), weight)

    model = wnconvert.trace(Hyper())
    assert [entry.fqn for entry in ApplyPass()(model).report.converted] == ["layer.weight"]


def test_the_manager_wraps_the_error():
    with pytest.raises(Exception, match="'ApplyPass' pass") as caught:
        PassManager(passes=[ApplyPass()])(nn.Linear(2, 2))
    assert type(caught.value) is Exception
    assert isinstance(caught.value.__cause__, KindError)


def _broken(fault):
    model = wnconvert.trace(build("conv")[0])
    if fault == "order":
        first = next(node for node in model.graph.nodes if node.op == "call_module")
        model.graph.output_node().append(first)
    else:
        with model.graph.inserting_before(model.graph.output_node()):
            model.graph.create_node("get_attr", "nowhere.weight")
    return model


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(("fault", "message"), [("order", "comes after it"), ("name", r"'nowhere\.weight'")])
def test_a_broken_graph_is_refused(pass_, fault, message):
    with pytest.raises(KindError, match=f"broken before the pass: .*{message}"):
        pass_()(_broken(fault))


@pytest.mark.parametrize("pass_", PASSES)
def test_a_graph_that_a_pass_breaks_is_an_error(pass_):
    class Breaking(pass_):
        def _run(self, graph_module):
            report = super()._run(graph_module)
            with graph_module.graph.inserting_before(graph_module.graph.output_node()):
                graph_module.graph.create_node("get_attr", "nowhere")
            return report

    with pytest.raises(VerificationError, match="the pass broke the graph: node 'nowhere' names 'nowhere'"):
        Breaking()(wnconvert.trace(build("conv")[0]))


def test_a_tensor_that_a_pass_loses_is_an_error():
    class Losing(ApplyPass):
        def _run(self, graph_module):
            report = super()._run(graph_module)
            path, _, name = report.converted[0].keys[0].rpartition(".")
            delattr(graph_module.get_submodule(path), name)
            return report

    with pytest.raises(VerificationError, match=r"the pass lost 'stem\.weight_g'"):
        Losing()(wnconvert.trace(build("conv")[0]))


def test_an_attribute_that_is_none_is_there():
    root, graph = nn.Linear(3, 3, bias=False), Graph()
    x, bias = graph.placeholder("x"), graph.get_attr("bias")
    graph.output((graph.call_function(F.linear, (x, graph.get_attr("weight"))), bias))
    assert ApplyPass()(GraphModule(root, graph)).modified


def test_what_the_passes_write_is_whole():
    for name in ("conv", "transformer", "functional"):
        model = wnconvert.trace(build(name)[0])
        for pass_ in (ApplyPass("spectral_norm"), FoldPass()):
            assert pass_(model).modified
