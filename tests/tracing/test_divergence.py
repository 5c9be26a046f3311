"""Two runs of a forward are compared call by call, and the blame falls on the innermost module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, Node

from wnconvert.tracing.divergence import DROPOUTS, Comparison
from wnconvert.tracing.writer import Frame


class Run:
    """Writes what a forward would write; inner modules are entered with `inside`."""

    def __init__(self) -> None:
        self.graph, self.root = Graph(), Frame("", {})
        self.frames = [self.root]
        self.x = self.add(self.graph.placeholder("x"))

    def add(self, node: Node) -> Node:
        self.frames[-1].items.append(node)
        return node

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Node:
        return self.add(self.graph.call_function(function, args, kwargs))

    def constant(self, value: Tensor, name: str = "_tensor_constant0") -> Node:
        self.root.constants[name] = value
        return self.add(self.graph.create_node("get_attr", name))

    def enter(self, path: str) -> None:
        frame = Frame(path, self.root.constants)
        self.frames[-1].items.append(frame)
        self.frames.append(frame)

    def leave(self) -> None:
        self.frames.pop()


def compare(*writers: Any, given: Any = None) -> Comparison:
    runs = [Run(), Run()]
    for run, write in zip(runs, writers, strict=True):
        write(run)
    return Comparison(runs[0].root, runs[1].root, {} if given is None else {runs[0].x: given})


def plain(run: Run) -> None:
    run.enter("a")
    y = run.call(torch.relu, run.x)
    run.leave()
    run.call(torch.add, y, 1, alpha=2)


def test_equal_runs_are_the_same_function() -> None:
    comparison = compare(plain, plain)
    assert comparison.modules == []
    assert comparison.followers == set()


def test_who_made_a_call_does_not_matter_if_all_calls_are_the_same() -> None:
    def other(run: Run) -> None:
        y = run.call(torch.relu, run.x)
        run.enter("a")
        run.leave()
        run.call(torch.add, y, 1, alpha=2)

    assert compare(plain, other).modules == []


def _another_function(run: Run) -> None:
    run.enter("a")
    y = run.call(torch.tanh, run.x)
    run.leave()
    run.call(torch.add, y, 1, alpha=2)


def _another_call(run: Run) -> None:
    run.enter("a")
    y = run.call(torch.relu, run.call(torch.relu, run.x))
    run.leave()
    run.call(torch.add, y, 1, alpha=2)


def _a_call_less(run: Run) -> None:
    run.enter("a")
    run.leave()
    run.call(torch.add, run.x, 1, alpha=2)


def _another_argument(run: Run) -> None:
    run.enter("a")
    y = run.call(torch.relu, run.x)
    run.leave()
    run.call(torch.add, y, 2, alpha=2)


def _another_keyword(run: Run) -> None:
    run.enter("a")
    y = run.call(torch.relu, run.x)
    run.leave()
    run.call(torch.add, y, 1, alpha=3)


def _another_input(run: Run) -> None:
    run.enter("a")
    run.call(torch.relu, run.x)
    run.leave()
    run.call(torch.add, run.x, 1, alpha=2)


def _another_module(run: Run) -> None:
    run.enter("b")
    y = run.call(torch.tanh, run.x)
    run.leave()
    run.call(torch.add, y, 1, alpha=2)


@pytest.mark.parametrize(
    ("other", "blamed"),
    [
        (_another_function, ["a"]),
        (_another_call, ["a"]),
        (_a_call_less, ["a"]),
        (_another_argument, [""]),
        (_another_keyword, [""]),
        (_another_input, [""]),
        (_another_module, [""]),
    ],
)
def test_the_innermost_module_is_blamed(other: Any, blamed: list[str]) -> None:
    assert compare(plain, other).modules == blamed
    assert compare(other, plain).modules == blamed


def test_each_module_that_differs_is_blamed() -> None:
    def two(function: Any) -> Any:
        def write(run: Run) -> None:
            for path in ("a", "b"):
                run.enter(path)
                run.call(function, run.x)
                run.leave()

        return write

    assert compare(two(torch.relu), two(torch.tanh)).modules == ["a", "b"]


def test_an_argument_that_is_a_value_in_the_other_run_is_that_value() -> None:
    def handing_on(run: Run) -> None:
        run.call(F.pad, run.x, [run.x])

    def given(run: Run) -> None:
        run.call(F.pad, None, [None])

    assert compare(handing_on, given).modules == [""]
    runs = [Run(), Run()]
    handing_on(runs[0])
    given(runs[1])
    runs[1].root.items[0] = runs[1].x
    assert Comparison(runs[0].root, runs[1].root, {runs[0].x: None}).modules == []


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.zeros(2), False),
        (torch.ones(2), torch.ones(3), False),
        (torch.ones(2), torch.ones(2).double(), False),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), True),
    ],
)
def test_constants_are_compared_by_their_bits(a: Tensor, b: Tensor, same: bool) -> None:
    assert compare(lambda run: run.constant(a), lambda run: run.constant(b)).modules == ([] if same else [""])


def test_a_constant_is_not_what_the_model_holds() -> None:
    def held(run: Run) -> None:
        run.add(run.graph.create_node("get_attr", "_tensor_constant0"))

    assert compare(lambda run: run.constant(torch.ones(1)), held).modules == [""]
    assert compare(held, held).modules == []


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_dropout_of_the_root_follows_the_mode(dropout: Any) -> None:
    def told(training: bool) -> Any:
        return lambda run: run.call(dropout, run.x, p=0.5, training=training, inplace=False)

    comparison = compare(told(True), told(False))
    assert comparison.modules == []
    assert [node.target for node in comparison.followers] == [dropout]
    assert not compare(told(True), told(True)).followers


def test_a_dropout_that_differs_in_more_follows_nothing() -> None:
    def told(training: bool, p: float) -> Any:
        return lambda run: run.call(F.dropout, run.x, p=p, training=training, inplace=False)

    assert compare(told(True, 0.5), told(False, 0.1)).modules == [""]


def test_a_dropout_of_another_module_is_a_difference() -> None:
    def told(training: bool) -> Any:
        def write(run: Run) -> None:
            run.enter("a")
            run.call(F.dropout, run.x, p=0.5, training=training, inplace=False)
            run.leave()

        return write

    assert compare(told(True), told(False)).modules == ["a"]


def test_what_cannot_be_compared_is_a_difference() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError

        __hash__ = None  # type: ignore[assignment]

    def write(run: Run) -> None:
        run.add(Node(run.graph, "odd", "call_function", torch.relu, (run.x,), {}))
        run.root.items[-1]._args = (Odd(),)  # type: ignore[union-attr]

    assert compare(write, write).modules == [""]
