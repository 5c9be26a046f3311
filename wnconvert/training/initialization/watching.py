"""Watch a forward: which calls of layers have a composed weight as their weight, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils.weak import WeakTensorKeyDictionary

from wnconvert.fusing.layers import called_layer
from wnconvert.graph.calls import is_permutation, permutation_of
from wnconvert.training.composed import Composed
from wnconvert.weights.ops import transposed

#: methods of tensors that are layers as the functions of torch are
_METHODS = {name: getattr(torch, name.strip("_")) for name in ("matmul", "__matmul__", "mm", "addmm")}


@dataclass(frozen=True)
class Call:
    """A call of a layer that has a composed weight.

    Attributes:
        weight: which weight.
        value: the weight as the call read it, in its own orientation.
        output: what the call gives, before any activation.
        channel: the dim of it that indexes output units, counted from the last.
        dim: the dim of the weight that does; None where there is none, as with groups of transposed convolutions.
        groups: in how many groups the channels are.
        bias: what was added.
        again: makes the same call with another weight, in its own orientation.
    """

    weight: int
    value: Tensor
    output: Tensor
    channel: int
    dim: int | None
    groups: int
    bias: Tensor | None
    again: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Origin:
    """Of which weight a tensor is computed, and whether it has the two dims of that in turn."""

    weight: int
    flipped: bool = False


class Watch(TorchFunctionMode):
    """While it is in force, each call of a layer with one of the weights gives what ``visit`` makes of it.

    A tensor that is computed from the parts of one weight, and of nothing else but what the model holds, belongs to
    it, whoever composes it: modules, graphs, torch's hooks and parametrizations.

    Args:
        model: what is run.
        weights: its composed weights.
        visit: takes a call, and returns what it is to give.

    Attributes:
        others: names of the functions that read a weight in another way, by weight.
    """

    def __init__(self, model: nn.Module, weights: Sequence[Composed], visit: Callable[[Call], Tensor]) -> None:
        super().__init__()
        self.others: dict[int, str] = {}
        self._sizes = [weight.direction.numel() for weight in weights]
        self._visit = visit
        self._known: Any = WeakTensorKeyDictionary()  # ... of what the model holds: their origin, or None
        for tensor in chain(model.parameters(), model.buffers()):
            self._known[tensor] = None
        for index, weight in enumerate(weights):
            for part in weight.scheme.parts:
                self._known[weight.parts[part]] = _Origin(index)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [*_tensors((args, kwargs))]
        known = [self._known[tensor] for tensor in given if tensor in self._known]
        origins = {origin for origin in known if origin is not None}
        result = func(*args, **kwargs)
        held = len(known) == len(given)
        if not origins:
            if held:
                self._keep(result, None)
            return result
        node, tensors = self._written(func, args, kwargs)
        call = self._call(
            node, tensors, result, lambda old, new: func(*_with(old, new, args), **_with(old, new, kwargs))
        )
        if call is not None:
            return self._visit(call)
        if held:
            self._keep(result, _joint(origins, node, result))
        elif any(True for _ in _tensors(result)):
            self._note(given, func)
        return result

    def _written(self, func: Any, args: Any, kwargs: Any) -> tuple[Node, dict[Node, Tensor]]:
        """Return a call as a node of a graph, and the tensors that its arguments stand for."""
        graph, tensors = Graph(), dict[Node, Tensor]()

        def node_of(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            op = "get_attr" if value in self._known else "placeholder"
            node = graph.create_node(op, f"_{len(tensors)}")
            tensors[node] = value
            return node

        given: Any = map_aggregate(args, node_of)
        named: Any = map_aggregate(kwargs, node_of)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return graph.call_function(getattr, (given[0], func.__self__.__name__)), tensors
        if is_tensor_method_or_property(func) and name not in _METHODS:
            return graph.create_node("call_method", name, given, named), tensors
        return graph.call_function(_METHODS.get(name, func), given, named), tensors

    def _call(
        self, node: Node, tensors: dict[Node, Tensor], output: Any, again: Callable[[Tensor, Tensor], Tensor]
    ) -> Call | None:
        layer = called_layer(node)
        if layer is None or layer.weight not in tensors or not isinstance(output, Tensor):
            return None
        operand = read = tensors[layer.weight]
        origin: _Origin | None = self._known[operand]
        if origin is None or operand.dim() != 1 - layer.channel or operand.numel() != self._sizes[origin.weight]:
            return None
        groups = layer.spec.groups
        dims = transposed(groups, tuple(operand.shape)) if layer.spec.transposed else (0,)
        dim = None if dims is None else dims[0]
        if origin.flipped:
            operand, dim = operand.t(), None if dim is None else 1 - dim
        bias = None if layer.bias is None else tensors[layer.bias]

        def rerun(weight: Tensor) -> Tensor:
            return again(read, weight.t() if flipped else weight)

        flipped = origin.flipped
        return Call(origin.weight, operand, output, layer.channel, dim, groups, bias, rerun)

    def _keep(self, result: Any, origin: _Origin | None) -> None:
        for tensor in _tensors(result):
            self._known[tensor] = origin

    def _note(self, given: list[Tensor], func: Any) -> None:
        """Note what reads a whole weight, if one is given."""
        for tensor in given:
            origin = self._known.get(tensor)
            if origin is not None and tensor.numel() == self._sizes[origin.weight]:
                self.others.setdefault(origin.weight, getattr(func, "__name__", str(func)))


def _with(old: Tensor, new: Tensor, given: Any) -> Any:
    """Return arguments with another tensor in the place of one."""
    return map_aggregate(given, lambda value: new if value is old else value)


def _joint(origins: set[_Origin], node: Node, result: Any) -> _Origin | None:
    """Return the origin of what is computed from tensors with these."""
    weights = {origin.weight for origin in origins}
    if len(weights) != 1:
        return None
    flipped = any(origin.flipped for origin in origins)
    is_matrix = isinstance(result, Tensor) and result.dim() == 2
    turned = is_matrix and is_permutation(node) and permutation_of(node, 2) == (1, 0)
    return _Origin(weights.pop(), flipped is not turned)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value that a function takes or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
