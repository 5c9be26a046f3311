"""What a function of proxies writes is written as often as one likes, and found again."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Graph

from wnconvert.weights.template import Template


def scaled() -> Template:
    return Template(("w", "g"), lambda parts: torch.mul(parts["w"], parts["g"]) / parts["w"].norm(2, dim=[0, 1]))


def written(into: bool = False):
    graph = Graph()
    w, g = graph.placeholder("w"), graph.get_attr("g")
    old = graph.call_function(torch.neg, (w,))
    graph.output(old)
    with graph.inserting_before(old):
        root = scaled().write(graph, {"w": w, "g": g}, old if into else None)
    return graph, w, g, old, root


def test_what_was_written_is_found_with_what_stands_in_the_placeholders() -> None:
    _, w, g, _, root = written()
    assert [node.target for node in root.all_input_nodes] == [torch.mul, "norm"]
    assert scaled().match(root) == {"w": w, "g": g}


def test_nothing_is_written_besides_the_calls() -> None:
    graph, *_ = written()
    ops = [node.op for node in graph.nodes]
    assert ops == [
        "placeholder",
        "get_attr",
        "call_function",
        "call_method",
        "call_function",
        "call_function",
        "output",
    ]
    graph.lint()


def test_an_existing_node_becomes_the_last_one() -> None:
    graph, w, g, old, root = written(into=True)
    assert root is old
    assert old.name == "neg"
    assert list(old.users) == [graph.output_node()]
    assert scaled().match(old) == {"w": w, "g": g}
    graph.lint()


@pytest.mark.parametrize(
    "other",
    [
        lambda w, g: torch.mul(w, g) / w.norm(2, dim=[0]),
        lambda w, g: torch.mul(w, g) / w.norm(2.0, dim=[0, 1]),
        lambda w, g: torch.mul(w, g) / w.norm(2, dim=[0, 1], keepdim=False),
        lambda w, g: torch.mul(w, g) / g.norm(2, dim=[0, 1]),
        lambda w, g: torch.add(w, g) / w.norm(2, dim=[0, 1]),
        lambda w, g: torch.mul(w, g),
    ],
    ids=["other dims", "a float", "one argument more", "another operand", "another function", "a part"],
)
def test_other_calls_are_not_taken_for_it(other) -> None:
    root = Template(("w", "g"), lambda parts: other(parts["w"], parts["g"])).output
    assert scaled().match(root) is None


def test_a_number_may_stand_for_a_placeholder_if_it_is_the_same_everywhere() -> None:
    twice = Template(("x", "n"), lambda parts: torch.add(torch.mul(parts["x"], parts["n"]), parts["n"]))
    graph = Graph()
    x = graph.placeholder("x")
    for numbers, found in (((2, 2), {"x": x, "n": 2}), ((2, 3), None)):
        root = graph.call_function(torch.add, (graph.call_function(torch.mul, (x, numbers[0])), numbers[1]))
        assert twice.match(root) == found


def test_nodes_of_a_graph_that_was_written_otherwise_are_a_template_too():
    source = Graph()
    x, y = source.placeholder("x_1"), source.placeholder("y_1")
    total = source.call_function(torch.add, (source.call_function(torch.mul, (x, y)), y))
    source.output((total,))
    template = Template.of(source, ("x", "y"), total)
    graph = Graph()
    a = graph.placeholder("a")
    written = template.write(graph, {"x": a, "y": 2.0})
    assert [node.target for node in graph.nodes] == ["a", torch.mul, torch.add]
    assert template.match(written) == {"x": a, "y": 2.0}
