"""What weight expressions are computed from, what they share, and what they are called."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Graph, Node

from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.weights.expressions import Source, sources


def product(graph: Graph, *names: str) -> Node:
    root = graph.get_attr(names[0])
    for name in names[1:]:
        root = graph.call_function(torch.mul, (root, graph.get_attr(name)))
    return root


def source_of(root: Node) -> Source:
    found, _ = sources([root])
    return found[root]


def test_parts_of_a_scheme_give_the_name_of_their_weight() -> None:
    source = source_of(product(Graph(), "conv.weight_g", "conv.weight_v"))
    assert (source.stem, source.scheme) == ("conv.weight", WeightNorm())
    assert source.keys == ("conv.weight_g", "conv.weight_v")
    assert source.names == ("conv.weight",)
    assert source.label == "conv.weight"


def test_the_parts_must_be_all_and_nothing_else_be_read() -> None:
    for names in (("w_g",), ("w_g", "w_v", "scale"), ("w_g", "u_v"), ("w_g", "w_v", "u_g", "u_v")):
        source = source_of(product(Graph(), *names))
        assert (source.stem, source.scheme) == (None, None)
        assert source.names == names
        assert source.label == ", ".join(names)


def test_what_all_weights_share_may_be_read_too() -> None:
    source = source_of(product(Graph(), "a.weight_network_v", "network_g"))
    assert source.stem == "a.weight"
    assert source.scheme is not None
    assert source.scheme.name == "network_norm"


def test_a_leaf_that_is_read_twice_is_one_key() -> None:
    source = source_of(product(Graph(), "w", "w"))
    assert len(source.leaves) == 2
    assert source.keys == ("w",)


def test_the_leaves_are_those_of_the_calls_that_no_other_expression_needs() -> None:
    graph = Graph()
    common = product(graph, "a", "b")
    first, second = (graph.call_function(torch.mul, (common, graph.get_attr(name))) for name in "cd")
    third = graph.call_function(torch.neg, (common,))
    found, shared = sources([first, second, third])
    assert common in shared
    assert not shared & {first, second, third}
    assert [found[root].keys for root in (first, second)] == [("c",), ("d",)]
    # its own call reads none
    assert set(found[third].keys) == {"a", "b"}
    assert found[first].nodes[-1] is first


def test_each_node_comes_after_its_inputs() -> None:
    nodes = source_of(product(Graph(), "a", "b", "c")).nodes
    assert len(nodes) == 5
    assert all(nodes.index(child) < index for index, node in enumerate(nodes) for child in node.all_input_nodes)


@pytest.mark.parametrize(
    ("names", "stem"),
    [
        (("a.b.parametrizations.weight.original0", "a.b.parametrizations.weight.original1"), "a.b.weight"),
        (("parametrizations.weight.original", "parametrizations.weight.0._u", "constant"), "weight"),
        (("conv.weight_orig", "conv.weight_mask"), "conv.weight"),
        (("conv.weight_orig",), None),  # it may be the name of a weight
        (("conv.weight_orig", "conv.bias_mask"), None),
        (("a.parametrizations.weight.original", "b.parametrizations.weight.original"), None),
        (("parametrizations", "parametrizations.weight"), None),
    ],
)
def test_what_torchs_own_apis_split_is_named_after_its_weight(names: tuple[str, ...], stem: str | None) -> None:
    source = source_of(product(Graph(), *names))
    assert (source.stem, source.scheme) == (stem, None)
