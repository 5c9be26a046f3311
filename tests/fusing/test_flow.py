"""How a channel comes through calls that compute nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node, symbolic_trace
from torch.fx.passes.shape_prop import ShapeProp

from wnconvert.fusing.flow import Flow, shape_of


def last_call(function: Any, shapes: bool = True) -> tuple[Flow, Node]:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.drop = nn.Identity(), nn.Dropout().eval()

        def forward(self, x: Tensor) -> Any:
            return function(self, x)

    graph_module = symbolic_trace(Model().eval())
    if shapes:
        ShapeProp(graph_module).propagate(torch.randn(2, 3, 4))
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    return Flow(graph_module), output.args[0]


@pytest.mark.parametrize(
    ("function", "dim", "before"),
    [
        (lambda self, x: self.same(x), -1, -1),
        (lambda self, x: self.drop(x), -2, -2),
        (lambda self, x: x.contiguous(), None, None),
        (lambda self, x: x.to(torch.float16), -1, -1),
        (lambda self, x: x.float(), -1, -1),
        (lambda self, x: F.dropout(x, 0.5, False), -1, -1),
        (lambda self, x: x.reshape(-1, 4), -1, -1),
        (lambda self, x: x.flatten(0, 1), -1, -1),
        (lambda self, x: x.transpose(1, 2), -1, -2),
        (lambda self, x: x.permute(2, 0, 1), -3, -1),
    ],
)
def test_what_passes_a_channel_on(function: Any, dim: int | None, before: int | None):
    flow, node = last_call(function)
    passed = flow.passed(node, dim)
    assert passed is not None
    assert passed[1] == before
    assert [(reader.op, own) for reader, _, own, _ in flow.users(node.args[0], before)] == [("output", dim)]


@pytest.mark.parametrize(
    ("function", "dim"),
    [
        (lambda self, x: x.relu(), -1),
        (lambda self, x: F.dropout(x, 0.5, True), -1),
        (lambda self, x: x.reshape(-1, 12), -1),
        (lambda self, x: x.reshape(-1, 4), -2),
        (lambda self, x: x.to("cpu"), -1),
    ],
)
def test_what_does_not(function: Any, dim: int):
    flow, node = last_call(function)
    assert flow.passed(node, dim) is None


def test_without_shapes_nothing_is_believed_of_views():
    flow, node = last_call(lambda self, x: x.reshape(-1, 4), shapes=False)
    assert shape_of(node) is None
    assert flow.passed(node, -1) is None
    flow, node = last_call(lambda self, x: x.transpose(1, 2), shapes=False)
    assert flow.passed(node, -1) is None
