"""Run a model for real, and write down as a graph what its parameters go into."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from wnconvert.graph.entries import Entries
from wnconvert.tracing.circumstances import generators_restored


@generators_restored()
@torch.no_grad()
def record(model: nn.Module, example_inputs: tuple[Any, ...]) -> Graph:
    """Run ``model`` once and return the calls of torch functions that were made, as a graph.

    It shows what reads a parameter where tracing sees nothing: a forward that takes decisions, compiled helpers, custom
    calls. It is a list of what happened, not a program: it is not to be run.

    Args:
        model: the model; it is run, so it should be a copy.
        example_inputs: the positional arguments.
    """
    recorder = _Recorder(model)
    with recorder:
        model(*copy.deepcopy(example_inputs))
    return recorder.graph


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = Graph()
        self._fqns: dict[int, str] = {}
        for fqn, tensor in Entries(model):
            self._fqns.setdefault(id(tensor), fqn)
        self._nodes: dict[int, Node] = {}
        self._alive: list[Any] = []  # an id means one object only as long as that lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__
        if name in ("__set__", "__delete__"):
            return result
        given = map_aggregate(args, self._argument), map_aggregate(kwargs or {}, self._argument)
        if name == "__get__":
            node = self.graph.call_function(getattr, (given[0][0], func.__self__.__name__))
        elif is_tensor_method_or_property(func):
            node = self.graph.create_node("call_method", name, *given)
        else:
            node = self.graph.create_node("call_function", func, *given)
        self._keep(result, node)
        if isinstance(result, (tuple, list)):
            for index, item in enumerate(result):
                if isinstance(item, Tensor):
                    self._keep(item, self.graph.call_method("__getitem__", (node, index)))
        return result

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value if isinstance(value, (int, float, str, bool, type(None), torch.dtype)) else repr(type(value))
        if id(value) not in self._nodes:
            fqn = self._fqns.get(id(value))
            node = self.graph.placeholder("input") if fqn is None else self.graph.get_attr(fqn)
            self._keep(value, node)
        return self._nodes[id(value)]

    def _keep(self, value: Any, node: Node) -> None:
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._alive.append(value)
