"""Layers that can take in an affine map: linear ones and convolutions, as modules and as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.parametrize import is_parametrized

from wnconvert.fusion import LayerSpec
from wnconvert.graph.calls import argument, is_permutation, permutation_of
from wnconvert.graph.entries import join, locate
from wnconvert.torch_private import parameters_of
from wnconvert.weights import expansion

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """One call of a layer.

    Attributes:
        node: the call.
        input: what it reads.
        weight: the node that fetches its weight, or None where a module is called.
        bias: likewise.
        stem: dotted name of the module that holds the weight.
        name: name of the weight in there.
        spec: how the weight is laid out.
        channel: the dim of its input and output that indexes channels, counted from the last.
        surrounded: whether it sees zeros around its input, or not every output sees the whole kernel.
        takes_bias: the place of the bias among the arguments of a function; None where it takes none.
    """

    node: Node
    input: Node
    weight: Node | None
    bias: Node | None
    stem: str
    name: str
    spec: LayerSpec
    channel: int = -1
    surrounded: bool = False
    takes_bias: int | None = None

    @property
    def reader(self) -> Node:
        """What reads its weight for it: itself, or what permutes it."""
        users = () if self.weight is None else self.weight.users
        return next((user for user in users if user is not self.node and self.node in user.users), self.node)

    @property
    def fqn(self) -> str:
        """Dotted name of the weight."""
        return join(self.stem, self.name)

    @property
    def is_convolution(self) -> bool:
        """Whether its channels are followed by other dims."""
        return self.channel < -1


def layer_of(graph_module: GraphModule, node: Any) -> Layer | None:
    """Return the layer that a node calls, or None if it is none whose weight is a parameter."""
    if not isinstance(node, Node):
        return None
    if node.op == "call_module":
        return _of_module(node, locate(graph_module, str(node.target)))
    layer = called_layer(node)
    return layer if layer is not None and _has_its_rank(graph_module, layer) else None


def called_layer(node: Node) -> Layer | None:
    """Return the layer that a call of a function is, if what it fetches as its weight has the dims of one."""
    read = _FUNCTIONS.get(node.target) if node.op == "call_function" else None
    return None if read is None else read(node)


def _has_its_rank(graph_module: GraphModule, layer: Layer) -> bool:
    """Return whether a weight has the dims of one layer: a product may be with a vector, or with many matrices."""
    weight, rank = locate(graph_module, layer.fqn), 1 - layer.channel
    if not isinstance(weight, Tensor) or weight.dim() != rank:
        return False
    return layer.reader is layer.node or permutation_of(layer.reader, rank) == (1, 0)


def computes_weight(graph_module: GraphModule, node: Node) -> bool:
    """Return whether a node calls a layer whose weight is no parameter, but computed from some."""
    if node.op == "call_module":
        module = locate(graph_module, str(node.target))
        return isinstance(module, nn.Module) and is_parametrized(module, expansion.WEIGHT)
    return node.target in _LAYERS and layer_of(graph_module, node) is None


def _of_module(node: Node, module: Any) -> Layer | None:
    rule = expansion.rule_of_module(module)
    if rule is None or expansion.WEIGHT not in parameters_of(module) or not isinstance(value := _only(node), Node):
        return None
    stem = str(node.target)
    if isinstance(module, nn.Linear):
        return Layer(node, value, None, None, stem, expansion.WEIGHT, LayerSpec())
    kernel = getattr(module, "kernel_size", None)
    if kernel is None:  # an embedding or bilinear
        return None
    transposed = rule.name.startswith("conv_transpose")
    zeros = module.padding_mode == "zeros" and _pads(module.padding)
    spec = LayerSpec(transposed, module.groups)
    return Layer(node, value, None, None, stem, expansion.WEIGHT, spec, -len(kernel) - 1, transposed or zeros)


def _only(node: Node) -> Any:
    """Return the one tensor that a module is called with; others of its arguments are sizes."""
    return node.args[0] if node.args else node.kwargs.get("input")


def _pads(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    sizes = padding if isinstance(padding, (tuple, list)) else (padding,)
    return any(size != 0 for size in sizes)  # a size that is a node may be anything


def _fetched(node: Any) -> tuple[str, str] | None:
    """Return module and name of the parameter that a node fetches."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    stem, _, name = str(node.target).rpartition(".")
    return stem, name


def _made(node: Node, value: Any, weight: Any, bias: Any, spec: LayerSpec, **facts: Any) -> Layer | None:
    place = _fetched(weight)
    if place is None or not isinstance(value, Node) or not (bias is None or _fetched(bias)):
        return None
    return Layer(node, value, weight, bias, *place, spec, **facts)


def _linear(node: Node) -> Layer | None:
    value, weight, bias = (argument(node, index, name) for index, name in enumerate(("input", "weight", "bias")))
    return _made(node, value, weight, bias, LayerSpec(), takes_bias=2)


def _conv(rank: int) -> Callable[[Node], Layer | None]:
    def read(node: Node) -> Layer | None:
        value, weight, bias = (argument(node, index, name) for index, name in enumerate(("input", "weight", "bias")))
        spec = LayerSpec(groups=argument(node, 6, "groups", 1))
        padded = _pads(argument(node, 4, "padding", 0))
        return _made(node, value, weight, bias, spec, channel=-rank - 1, surrounded=padded, takes_bias=2)

    return read


def _conv_transpose(rank: int) -> Callable[[Node], Layer | None]:
    def read(node: Node) -> Layer | None:
        value, weight, bias = (argument(node, index, name) for index, name in enumerate(("input", "weight", "bias")))
        spec = LayerSpec(True, argument(node, 6, "groups", 1))
        return _made(node, value, weight, bias, spec, channel=-rank - 1, surrounded=True, takes_bias=2)

    return read


def _convolution(node: Node) -> Layer | None:
    value, weight, bias, stride = (argument(node, index, "") for index in range(4))
    transposed = bool(argument(node, 6, "transposed"))
    spec = LayerSpec(transposed, argument(node, 8, "groups", 1))
    surrounded = transposed or _pads(argument(node, 4, "padding", 0))
    return _made(node, value, weight, bias, spec, channel=-len(stride) - 1, surrounded=surrounded, takes_bias=2)


def _addmm(node: Node) -> Layer | None:
    if {"beta", "alpha"} & node.kwargs.keys():
        return None
    bias, value, weight = argument(node, 0, "input"), argument(node, 1, "mat1"), argument(node, 2, "mat2")
    weight, spec = _matrix(weight)
    return None if bias is None else _made(node, value, weight, bias, spec, takes_bias=0)


def _matmul(node: Node) -> Layer | None:
    weight, spec = _matrix(node.args[1] if len(node.args) > 1 else None)
    return _made(node, node.args[0], weight, None, spec) if node.args else None


def _matrix(node: Any) -> tuple[Any, LayerSpec]:
    """Return what a matrix on the right of a product fetches, and whether it has its input channels first."""
    if isinstance(node, Node) and is_permutation(node) and len(node.users) == 1:
        return node.args[0], LayerSpec()
    return node, LayerSpec(transposed=True)


_FUNCTIONS: dict[Any, Callable[[Node], Layer | None]] = {
    **dict.fromkeys((F.linear, aten.linear.default), _linear),
    **dict.fromkeys((torch.addmm, aten.addmm.default), _addmm),
    **dict.fromkeys((torch.mm, torch.matmul, aten.mm.default, aten.matmul.default), _matmul),
    aten.convolution.default: _convolution,
}
for _rank in (1, 2, 3):
    _name = f"conv{_rank}d"
    _FUNCTIONS.update(dict.fromkeys((getattr(F, _name), getattr(torch, _name)), _conv(_rank)))
    _FUNCTIONS.update(dict.fromkeys((getattr(aten, _name).default, getattr(aten, _name).padding), _conv(_rank)))
    _name = f"conv_transpose{_rank}d"
    _overload = "default" if _rank == 1 else "input"
    _targets = (getattr(F, _name), getattr(torch, _name), getattr(getattr(aten, _name), _overload))
    _FUNCTIONS.update(dict.fromkeys(_targets, _conv_transpose(_rank)))
#: those of them that are layers whatever they read, unlike a product of any two matrices
_LAYERS = frozenset(target for target, read in _FUNCTIONS.items() if read not in (_addmm, _matmul))
