"""Who reads a tensor, in one graph or in several."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import wnconvert
from wnconvert.fusing.layers import layer_of
from wnconvert.fusing.reads import Reads


class Twice(nn.Module):
    """A layer that is called, and whose weight is read besides."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(self.norm(x)) + self.lin.weight.sum()


def test_a_call_of_a_module_and_a_fetch_both_count():
    graph_module = wnconvert.trace(Twice())
    reads = Reads(graph_module, [graph_module.graph])
    layer = next(layer for node in graph_module.graph.nodes if (layer := layer_of(graph_module, node)))
    reason = reads.reason_against(layer, "lin.bias", untie=True)
    assert reason == "weight 'lin.weight' is read 2 times"
    assert reads.is_read("lin.weight")
    assert not reads.is_read("nothing")
    assert reads.count_calls(graph_module.lin) == 1
    assert reads.is_called_below("lin")
    assert not reads.is_called_below("li")


def test_what_is_erased_reads_no_more():
    graph_module = wnconvert.trace(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)))
    reads = Reads(graph_module, [graph_module.graph])
    norm = next(node for node in graph_module.graph.nodes if node.target == "1")
    norm.replace_all_uses_with(norm.args[0])
    graph_module.graph.erase_node(norm)
    assert not reads.is_read("1.weight")
    assert reads.count_calls(graph_module.get_submodule("1")) == 0


class Opaque(nn.Module):
    """A module that no graph shows, for it decides on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) if x.sum() > 0 else x


def test_a_module_that_no_graph_looks_into_may_read_what_is_below_it():
    graph_module = wnconvert.trace(nn.Sequential(Opaque()))
    inner = wnconvert.trace(nn.Sequential(graph_module.get_submodule("0").lin))
    layer = next(layer for node in inner.graph.nodes if (layer := layer_of(inner, node)))
    layer = type(layer)(**{**vars(layer), "stem": "0.lin"})
    hidden, shown = (
        Reads(graph_module, [graph_module.graph]),
        Reads(graph_module, [graph_module.graph], {graph_module.get_submodule("0")}),
    )
    reason = hidden.reason_against(layer, None, untie=False)
    assert reason is not None
    assert reason.why is wnconvert.Why.OPAQUE
    assert shown.reason_against(layer, None, untie=False) is None
    assert torch.is_tensor(shown.tensor("0.lin.weight"))
