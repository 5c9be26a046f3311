"""Layers as they stand in graphs: modules, functions, and what export makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import wnconvert
from tests.fusing.checking import stirred
from wnconvert.fusing.layers import Layer, computes_weight, layer_of


def layers(graph_module: GraphModule) -> list[Layer]:
    return [layer for node in graph_module.graph.nodes if (layer := layer_of(graph_module, node))]


@pytest.mark.parametrize(
    ("module", "shape", "channel", "surrounded"),
    [
        (nn.Linear(4, 6), (2, 4), -1, False),
        (nn.Conv1d(4, 6, 3), (2, 4, 7), -2, False),
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 7), -3, True),
        (nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 7, 7), -3, True),
        (nn.Conv2d(4, 6, 3, padding="valid", groups=2), (2, 4, 7, 7), -3, False),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 7), -2, True),
        (nn.ConvTranspose3d(4, 6, 3), (2, 4, 5, 5, 5), -4, True),
    ],
)
def test_a_module_is_what_export_makes_of_it(module: nn.Module, shape: tuple[int, ...], channel: int, surrounded: bool):
    inputs = (torch.randn(shape),)
    root = nn.Sequential(module)
    own = layers(wnconvert.trace(root))
    program = torch.export.export(root, inputs)
    exported = layers(program.module()) + layers(program.run_decompositions().module())
    assert len(own) == 1
    assert len(exported) == 2
    for layer in (*own, *exported):
        assert (layer.channel, layer.surrounded) == (channel, surrounded)
        assert layer.spec == own[0].spec
        assert layer.fqn == "0.weight"


@pytest.mark.parametrize(
    ("product", "transposed"),
    [
        (lambda x, w, b: F.linear(x, w, b), False),
        (lambda x, w, b: torch.addmm(b, x, w.t()), False),
        (lambda x, w, b: torch.addmm(b, x, w), True),
        (lambda x, w, b: torch.mm(x, w), True),
        (lambda x, w, b: torch.matmul(x, w.T), False),
    ],
)
def test_products_of_matrices(product: Callable[..., Tensor], transposed: bool):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return product(x, self.w, self.b)

    (layer,) = layers(wnconvert.trace(Model()))
    assert (layer.fqn, layer.spec.transposed, layer.channel) == ("w", transposed, -1)


def test_what_is_no_layer():
    model = nn.Sequential(nn.Embedding(3, 4), nn.ReLU(), nn.LayerNorm(4))
    assert layers(wnconvert.trace(model)) == []


def test_a_computed_weight_is_told_from_what_is_no_layer():
    graph_module, _ = wnconvert.apply(stirred(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), how="graph")
    assert layers(graph_module) == []
    assert [node.name for node in graph_module.graph.nodes if computes_weight(graph_module, node)] == ["_0"]


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: torch.matmul(x, w.permute(0, 1)),
        lambda x, w: torch.matmul(x, w[0]),
        lambda x, w: torch.matmul(x, w.transpose(0, 0)),
    ],
)
def test_products_with_what_is_no_matrix_or_its_transpose(product: Callable[..., Tensor]):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return product(x, self.w)

    assert layers(wnconvert.trace(Model())) == []
