"""An exported program as a graph module that holds its tensors, on which the passes work as on any other.

A program holds no tensors in its graph: parameters, buffers and constants are inputs, and its signature says which.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, GraphModule, Node

from wnconvert.errors import KindError
from wnconvert.graph.constants import memory_of
from wnconvert.graph.copying import clone
from wnconvert.graph.entries import has_attribute
from wnconvert.graph.whole import WholeGraphModule
from wnconvert.torch_private import children_of, set_graph

aten = torch.ops.aten


@dataclass
class Held:
    """A program's graph, whose inputs that stand for tensors became fetches of those.

    Attributes:
        module: the graph module. What the program gives back as the new value of a tensor is written there in place,
            so that passes see the change.
        inputs: name and meta of the input that stood for a tensor, by dotted name of the tensor.
        writes: the nodes that write what the program gives back.
        names: the names that the nodes have in the program.
    """

    module: GraphModule
    inputs: dict[str, tuple[str, dict[str, Any]]]
    writes: list[Node]
    names: dict[Node, str]


def hold(program: ExportedProgram, share: bool = False) -> Held:
    """Return a program's graph with its tensors; the program is left as it is.

    Args:
        program: the program.
        share: whether the tensors are the program's own, or copies.

    Raises:
        KindError: the name of a tensor is that of something else in its graph.
    """
    root = _root(program)
    graph = copy.deepcopy(program.graph)
    # a copy gives another name to a node that is called as a function of Python is
    names = {node: original.name for node, original in zip(graph.nodes, program.graph.nodes, strict=True)}
    inputs: dict[str, tuple[str, dict[str, Any]]] = {}
    placeholders = (node for node in graph.nodes if node.op == "placeholder")
    fetched: dict[str, Node] = {}
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node, spec in zip(list(placeholders), program.graph_signature.input_specs, strict=True):
        if spec.target is None or spec.kind is InputKind.CUSTOM_OBJ:
            continue
        inputs[spec.target] = names[node], dict(node.meta)
        if node.users:
            node.op, node.target, node.args = "get_attr", spec.target, ()
            # where it is needed, so that what takes its place stands among the nodes of the module that reads it
            min(node.users, key=position.__getitem__).prepend(node)
            fetched[spec.target] = node
        else:
            # a fetch that nothing reads would count as one
            graph.erase_node(node)
    writes = []
    for written, value in _given_back(program, graph):
        if written in fetched:
            with graph.inserting_before(graph.output_node()):
                writes.append(graph.call_function(aten.copy_.default, (fetched[written], value)))
    module = WholeGraphModule(root if share else clone(root), Graph())
    set_graph(module, graph)
    return Held(module, inputs, writes, names)


def _given_back(program: ExportedProgram, graph: Graph) -> list[tuple[str, Node]]:
    """Return which tensors a program gives new values, and the nodes of those."""
    values = graph.output_node().args[0]
    pairs = zip(program.graph_signature.output_specs, values, strict=False)  # type: ignore[arg-type]
    return [(spec.target, value) for spec, value in pairs if spec.target is not None and isinstance(value, Node)]


def _root(program: ExportedProgram) -> nn.Module:
    """Return a module that holds a program's tensors by their names, and the graphs that its own graph calls."""
    root = nn.Module()
    for name, module in children_of(program.graph_module).items():
        root.add_module(name, copy.deepcopy(module))
    one: dict[Hashable, Tensor] = {}
    state, constants = program.state_dict, program.constants
    for fqn, tensor in (*state.items(), *((fqn, each) for fqn, each in constants.items() if fqn not in state)):
        if isinstance(tensor, Tensor):
            _register(root, fqn, one.setdefault(_identity(tensor), tensor), fqn in state)
    return root


def _identity(tensor: Tensor) -> Hashable:
    """Return what tied tensors have in common: one that was loaded from a file may be two over one memory."""
    if tensor.layout != torch.strided or not tensor.numel():
        return id(tensor)
    place = memory_of(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    return *place, tensor.dtype, type(tensor), tensor.requires_grad


def _register(root: nn.Module, fqn: str, tensor: Tensor, persistent: bool) -> None:
    *path, name = fqn.split(".")
    module = root
    for atom in path:
        inner = children_of(module).setdefault(atom, nn.Module())
        if not isinstance(inner, nn.Module):
            raise _taken(fqn)
        module = inner
    if has_attribute(module, name):
        raise _taken(fqn)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor, persistent)


def _taken(fqn: str) -> KindError:
    return KindError(
        f"the program has a tensor {fqn!r}, which is also the name of something else; rename it, and export"
    )
