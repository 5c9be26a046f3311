"""Everything that a round trip must give back: the graph, the modules, the keys, the tensors to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.node import map_arg

from wnconvert.verification import same_bits

Facts = dict[str, Any]


def graph_listing(graph_module: GraphModule, names: bool = True) -> list[tuple[Any, ...]]:
    """List the nodes of a graph: name, op, target, args and kwargs, with nodes by their names.

    With ``names=False`` they are numbered instead: unpickling a graph, torch names its nodes anew.
    """
    name = {node: node.name if names else str(index) for index, node in enumerate(graph_module.graph.nodes)}

    def plain(value: Any) -> Any:
        return map_arg(value, lambda node: f"%{name[node]}")

    return [(name[node], node.op, node.target, plain(node.args), plain(node.kwargs)) for node in name]


def contents(model: nn.Module) -> Facts:
    """List the modules and tensors of a model in their order, without the values; tied tensors get one number."""
    numbers: dict[int, int] = {}
    modules, tensors = [], []
    for path, module in model.named_modules(remove_duplicate=False):
        # a traced model is a GraphModule of the same name
        kind = "root" if not path else type(module)
        modules.append((path, kind, module.training))
        for group in ("_parameters", "_buffers"):
            for name, tensor in getattr(module, group).items():
                fqn = f"{path}.{name}" if path else name
                if tensor is None:
                    tensors.append((fqn, group, None))
                    continue
                number = numbers.setdefault(id(tensor), len(numbers))
                transient = name in module._non_persistent_buffers_set
                facts = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad, str(tensor.device))
                tensors.append((fqn, group, type(tensor), transient, number, *facts))
    return {"modules": modules, "tensors": tensors, "keys": list(model.state_dict())}


def values(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all tensors of a model by name."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().clone() for name, tensor in named}


class Snapshot:
    """The facts of a model at one time, kept apart from it."""

    def __init__(self, model: nn.Module) -> None:
        self.contents = contents(model)
        self.values = values(model)
        self.listing = graph_listing(model) if isinstance(model, GraphModule) else None

    def assert_same(self, model: nn.Module, graph: bool = True) -> None:
        """Assert that ``model`` has these facts; ``graph=False`` leaves the nodes out."""
        actual = Snapshot(model)
        for fact, expected in self.contents.items():
            assert actual.contents[fact] == expected, f"{fact} differ"
        assert actual.values.keys() == self.values.keys()
        for name, tensor in self.values.items():
            assert same_bits(actual.values[name], tensor), f"{name} has other bits"
        if graph:
            assert actual.listing == self.listing, "the graphs differ"


def outputs_of(model: nn.Module, inputs: tuple[Any, ...], seed: int = 0) -> list[Tensor]:
    """Run a model with a fixed seed and return its output tensors."""
    torch.manual_seed(seed)
    with torch.no_grad():
        result = model(*inputs)
    return [result] if isinstance(result, Tensor) else list(result)


def assert_same_outputs(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Assert that two lists of outputs are bit-identical and not trivial."""
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        assert e.isfinite().all()
        assert e.count_nonzero() > 0, "an output of zeros shows nothing"
        assert same_bits(a, e)
