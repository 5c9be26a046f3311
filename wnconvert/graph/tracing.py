"""Model -> GraphModule that keeps the model's own modules, keys and key order."""

from __future__ import annotations

import copy
from types import UnionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Tracer

from wnconvert.errors import TracingError
from wnconvert.graph.tracer import PatientTracer, decides_by_optional_arguments
from wnconvert.graph.whole import WholeGraphModule

_WAY_OUT = "give example inputs, or a GraphModule such as torch.export.export(model, inputs).module()"
_CONTENTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def trace(model: nn.Module, *, recompile: bool = True) -> GraphModule:
    """Trace ``model`` symbolically; the result shares its modules and tensors.

    What the tracer cannot look into is one node, see `wnconvert.graph.tracer`.

    Unlike `torch.fx.symbolic_trace`, the graph module holds *all* of the model's modules, parameters and buffers
    under their names and in their order, so that its state dict is the model's. A `GraphModule` is returned as it is.

    Args:
        model: what to trace.
        recompile: generate the code of the graph module; without, the caller does so before it is run.

    Raises:
        TracingError: torch.fx cannot trace the model.
    """
    if isinstance(model, GraphModule):
        return model
    before = set(vars(model))
    graph = _trace_graph(model, PatientTracer())
    # the tracer's class would be pickled with the model, which must load where wnconvert is not installed
    graph._tracer_cls = None
    for node in graph.nodes:
        # annotations that torch.fx cannot write into the code of a pickled graph: texts, and unions by "|"
        if isinstance(node.type, (str, UnionType)):
            node.type = None
    # made around an empty graph: code for the traced one is only generated where it is run
    graph_module = WholeGraphModule(model, Graph(), type(model).__name__)
    graph_module._graph = graph
    graph.owning_module = graph_module
    # constants that tracing left in the model become buffers of the graph module, but no keys of its state dict
    for name in sorted(set(vars(model)) - before):
        graph_module.register_buffer(name, getattr(model, name), persistent=False)
        delattr(model, name)
    if recompile:
        graph_module.recompile()
    return graph_module


def export(model: nn.Module, example_inputs: tuple[Any, ...]) -> GraphModule:
    """Return the graph that `torch.export` finds when ``model`` runs on ``example_inputs``; it shares its tensors.

    Such a graph holds for the mode and, as a rule, the sizes of the example; its modules are containers of tensors.

    Raises:
        TracingError: torch.export cannot export the model either.
    """
    try:
        return torch.export.export(model, example_inputs, strict=False).module()
    except Exception as error:
        raise TracingError(
            f"torch.export cannot export {type(model).__name__!r}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def clone(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` that shares nothing with it; as `copy.deepcopy`, but faster and without its losses.

    `deepcopy` of torch's GraphModule loses what its root holds under a second name, and which buffers are persistent.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in module.__dict__.values():
            # torch leaves computed weights in modules (hooks) and in lists (recurrent ones); deepcopy refuses those
            for tensor in value if isinstance(value, list) else (value,):
                if isinstance(tensor, Tensor) and not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
        if _is_plain(module):
            _clone_plain(module, memo)
    copied = copy.deepcopy(model, memo)
    if isinstance(model, GraphModule):
        # the copies of what its own deepcopy forgets to put into the copied module
        attributes = memo.get(id(model.__dict__), {})
        copied.__dict__.update({name: attributes[name] for name in _CONTENTS if name in attributes})
    return copied


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is of one of torch's own classes, has no submodules and no way of its own to be copied."""
    cls = type(module)
    return (
        cls.__module__.startswith("torch.nn.modules.")
        and not module._modules
        and cls.__setstate__ is nn.Module.__setstate__
        and not hasattr(cls, "__deepcopy__")
    )


def _clone_plain(module: nn.Module, memo: dict[int, Any]) -> None:
    """Copy a module of one of torch's own classes, whose attributes are plain values or dicts of tensors, into memo.

    It skips deepcopy's walk over some twenty attributes, which costs more than tracing the module.
    """
    copied = memo[id(module)] = object.__new__(type(module))
    attributes = copied.__dict__
    for name, value in module.__dict__.items():
        if isinstance(value, (int, float, str, tuple, type(None))):
            attributes[name] = value
        elif name in ("_parameters", "_buffers"):
            attributes[name] = type(value)((key, copy.deepcopy(entry, memo)) for key, entry in value.items())
        elif isinstance(value, (dict, set)) and not value:
            attributes[name] = type(value)()
        else:
            attributes[name] = copy.deepcopy(value, memo)


def _trace_graph(model: nn.Module, tracer: Tracer) -> Graph:
    name = type(model).__name__
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise TracingError(
            f"torch.fx cannot trace {name!r}: {type(error).__name__}: {_first_line(error)}; {_WAY_OUT}"
        ) from error
    if decides_by_optional_arguments(model, graph):
        raise TracingError(
            f"{name!r} has no single graph: what it computes depends on which optional arguments are given; {_WAY_OUT}"
        )
    return graph


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
