"""What schemes compose is written as nodes, with the update of their state where a flag tells training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule

from tests.helpers import assert_same_bits, sample, variant_id, variants
from wnconvert.graph.constants import is_mode_flag
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.network_norm import NetworkNorm
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.weights import emission


def written(scheme, weight, flag=None):
    """Return a graph that composes one weight, and the parts."""
    spec = WeightSpec.of(weight)
    parts = scheme.split(weight, spec)
    parts |= scheme.split_shared([parts], [spec])
    root, graph = nn.Module(), Graph()
    for name, part in parts.items():
        if name in scheme.state:
            root.register_buffer(name, part)
        else:
            root.register_parameter(name, nn.Parameter(part))
    if flag is not None:
        root.add_module(flag, emission.mode_flag())
    nodes = emission.fetch(graph, {name: name for name in parts})
    nodes |= emission.gather(graph, scheme, [nodes], [spec])
    graph.output(emission.emit(graph, scheme, spec, nodes, flag))
    graph.lint()
    return GraphModule(root, graph), spec


@pytest.mark.parametrize("scheme", variants(), ids=variant_id)
def test_the_nodes_give_the_bits_of_compose(scheme) -> None:
    model, spec = written(scheme, sample(4, 3))
    parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert_same_bits(model(), scheme.compose(parts | scheme.gather([parts], [spec]), spec))


def test_the_flag_is_none_but_in_training() -> None:
    flag, one = emission.mode_flag(), torch.ones(())
    assert is_mode_flag(flag)
    assert flag.eval()(one) > 0
    assert not flag.train()(one) > 0


def test_a_training_forward_updates_the_state_and_an_evaluation_does_not() -> None:
    scheme = SpectralNorm()
    model, spec = written(scheme, sample(4, 3), "mode")
    with torch.no_grad():
        model.orig.add_(sample(4, 3, seed=5))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    parts = {"orig": model.orig.detach(), **before}
    assert_same_bits(model.eval()(), scheme.compose(parts, spec))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    updated = scheme.update(parts, spec)
    assert_same_bits(model.train()(), scheme.compose(parts | updated, spec))
    for name, buffer in model.named_buffers():
        assert_same_bits(buffer, updated[name])
        assert not torch.equal(buffer, before[name])


def test_a_second_forward_leaves_what_the_first_one_saved() -> None:
    model, _ = written(SpectralNorm(), sample(4, 3), "mode")
    first = model.train()()
    model()
    first.sum().backward()
    assert model.orig.grad.any()


def test_without_a_flag_nothing_is_written_to() -> None:
    model, _ = written(SpectralNorm(), sample(4, 3))
    assert "copy_" not in [node.target for node in model.graph.nodes]


def test_an_existing_node_may_become_the_weight() -> None:
    weight = sample(4, 3)
    graph, scheme, spec = Graph(), WeightNorm(), WeightSpec.of(weight)
    nodes = emission.fetch(graph, {"g": "a.g", "v": "a.v"})
    assert [node.target for node in nodes.values()] == ["a.g", "a.v"]
    fetched = graph.get_attr("weight")
    used = graph.call_function(torch.neg, (fetched,))
    with graph.inserting_before(fetched):
        assert emission.emit(graph, scheme, spec, nodes, into=fetched) is fetched
    assert used.args == (fetched,)
    assert fetched.op == "call_function"
    assert fetched.name == "weight"


def test_what_all_weights_have_in_common_is_written_once() -> None:
    scheme, graph = NetworkNorm(), Graph()
    specs = [WeightSpec.of(sample(4, 3)), WeightSpec.of(sample(2, 4))]
    parts = [emission.fetch(graph, {name: f"{path}.{name}" for name in scheme.parts}) for path in "ab"]
    common = emission.gather(graph, scheme, parts, specs)
    assert common
    assert emission.gather(graph, WeightNorm(), parts, specs) == {}
