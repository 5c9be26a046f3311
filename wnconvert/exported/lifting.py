"""A graph module that holds its tensors, as an exported program again: its tensors are inputs, and a signature says so.

What the passes left alone is what it was: its name, its place, its meta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature, InputSpec, OutputSpec
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from wnconvert.exported.holding import Held
from wnconvert.exported.signature import PREFIXES, input_specs, state_and_constants
from wnconvert.graph.entries import Entries, locate
from wnconvert.naming import PARAMETRIZATIONS
from wnconvert.torch_private import carry_guards, children_of, schema_of, take_name

#: keys of a node's meta that a pass of this package left, and that mean nothing in a program
_OWN_META = "wnconvert."
#: ... and the one that says in which modules the node was traced, by which a program is unflattened
_MODULES = "nn_module_stack"


def lift(held: Held, program: ExportedProgram) -> ExportedProgram:
    """Return the program that a held graph became.

    Args:
        held: what `hold` made of ``program``, and passes changed.
        program: the program that it was.
    """
    for write in held.writes:
        held.module.graph.erase_node(write)
    graph, names, inputs = _Lifting(held, input_specs(held.module, program)).run()
    state, constants = state_and_constants(held.module, program)
    calls = [entry for entry in program.module_call_graph if _is_there(held.module, entry.fqn)]
    lifted = ExportedProgram(
        root=_called(held.module),
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, _output_specs(graph, program)),
        state_dict=state,
        range_constraints=dict(program.range_constraints),
        module_call_graph=[_renamed(entry, names) for entry in calls],
        example_inputs=program.example_inputs,
        constants=constants,
        verifiers=program.verifiers,
    )
    lifted.graph_module.meta.update(program.graph_module.meta)
    carry_guards(program, lifted)
    return lifted


class _Lifting:
    """Writes a held graph anew, with inputs for its tensors."""

    def __init__(self, held: Held, specs: Sequence[InputSpec]) -> None:
        self.held = held
        self.specs = specs
        self.graph = Graph()
        self.copies: dict[Node, Node] = {}
        self.inputs: dict[str, Node] = {}
        self.entries = Entries(held.module)
        vals = (node.meta.get("val") for node in held.module.graph.nodes)
        vals_of_inputs = (meta.get("val") for _, meta in held.inputs.values())
        modes = (getattr(val, "fake_mode", None) for each in (vals, vals_of_inputs) for val in each)
        self.fake_mode: Any = next(filter(None, modes), None)
        self.taken: set[str] = set()
        self.names_of_inputs = {name for name, _ in held.inputs.values()}

    def run(self) -> tuple[Graph, dict[str, str], list[InputSpec]]:
        """Return the graph, the new name of every node that has an old one, and the signature's inputs."""
        nodes = self.held.module.graph.nodes
        others = (node for node in nodes if node.op == "placeholder")
        specs = []
        for spec in self.specs:
            if spec.target is None or spec.kind not in PREFIXES:
                node = next(others)
                lifted = self.copies[node] = self._named(self.graph.node_copy(node), self.held.names[node])
            else:
                lifted = self.inputs[spec.target] = self._input(spec, spec.target)
            specs.append(replace(spec, arg=_named(spec.arg, lifted.name)))
        for node in nodes:
            if node not in self.copies:
                self._copy(node)
        _where_read(self.graph)
        names = {name: self.copies[node].name for node, name in self.held.names.items() if node in self.copies}
        return self.graph, names, specs

    def _input(self, spec: InputSpec, fqn: str) -> Node:
        name, meta = self.held.inputs.get(fqn, (PREFIXES[spec.kind] + fqn.replace(".", "_"), {}))
        node = self._named(self.graph.placeholder(name), name)
        tensor, val = locate(self.held.module, fqn), meta.get("val")
        if val is not None and _facts(val) == _facts(tensor):
            node.meta.update(meta)
        else:
            node.meta["val"] = (
                tensor if self.fake_mode is None else self.fake_mode.from_tensor(tensor, static_shapes=True)
            )
        return node

    def _copy(self, node: Node) -> None:
        load = self.copies.__getitem__
        if node.op == "get_attr" and str(node.target) in self.inputs:
            self.copies[node] = self.inputs[self._name_of_tied(str(node.target))]
            return
        if node.op == "output":
            copied = self.graph.output(map_arg(node.args[0], load))
        else:
            args, kwargs = map_arg(node.args, load), map_arg(node.kwargs, load)
            name = self._name(node)
            copied = self._named(self.graph.create_node(node.op, node.target, args, kwargs, name, node.type), name)
        copied.meta.update({key: value for key, value in node.meta.items() if not key.startswith(_OWN_META)})
        if node.op == "call_function" and "val" not in copied.meta:
            copied.meta["val"] = _val(copied)
        self.copies[node] = copied

    def _name_of_tied(self, fqn: str) -> str:
        """Return by which name a tensor is read: of a new one that has several, torch.export takes the last."""
        if fqn in self.held.inputs:
            return fqn
        tensor = self.entries.tensors[fqn]
        return max((owner.fqn for owner in self.entries.owners(tensor)), key=list(self.inputs).index)

    def _name(self, node: Node) -> str:
        """Return the name for a node; what composes a weight now has that of the input which was the weight."""
        if node.op == "call_function" and node.name in self.names_of_inputs:
            return schema_of(node.target).name.rpartition("::")[2]
        return self.held.names.get(node, node.name)

    def _named(self, node: Node, name: str) -> Node:
        """Return a new node with its name, also where a graph does not give out such a name: that of a function."""
        if node.name != name and name not in self.taken:
            take_name(node, name)
        self.taken.add(node.name)
        return node


@torch.no_grad()
def _val(node: Node) -> Any:
    """Return what a call of a new node gives, as far as a program knows it: its shape and dtype."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _where_read(graph: Graph) -> None:
    """Let new nodes belong to the module which the first node that reads them belongs to, as the weight did."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and _MODULES not in node.meta:
            found = next((user.meta[_MODULES] for user in node.users if _MODULES in user.meta), None)
            node.meta |= {} if found is None else {_MODULES: found}


def _facts(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.stride(), tensor.device, tensor.requires_grad


def _named(argument: Any, name: str) -> Any:
    return replace(argument, name=name) if hasattr(argument, "name") else argument


def _called(module: GraphModule) -> nn.Module:
    """Return a module that holds the graphs which the graph calls, and no tensors."""
    root = nn.Module()
    for node in module.graph.nodes:
        called = locate(module, str(node.target)) if node.op == "get_attr" else None
        if isinstance(called, nn.Module):
            children_of(root)[str(node.target)] = called
    return root


def _output_specs(graph: Graph, program: ExportedProgram) -> list[OutputSpec]:
    """Return the signature's outputs, with the names that they have now."""
    values: Any = graph.output_node().args[0]
    specs = program.graph_signature.output_specs
    return [
        replace(spec, arg=_named(spec.arg, value.name)) if isinstance(value, Node) else spec
        for spec, value in zip(specs, values, strict=True)
    ]


def _is_there(module: GraphModule, fqn: str) -> bool:
    """Return whether a call is of what is still there, and not of a parametrization that was folded."""
    atoms = fqn.split(".")
    if PARAMETRIZATIONS not in atoms:
        return True
    end = atoms.index(PARAMETRIZATIONS) + 2
    return locate(module, ".".join(atoms[:end])) is not None


def _renamed(entry: ModuleCallEntry, names: Mapping[str, str]) -> ModuleCallEntry:
    """Return a call with the names that its inputs and outputs have now."""
    if entry.signature is None:
        return replace(entry)
    inputs, outputs = (
        [_named(each, names.get(each.name, each.name)) for each in arguments]
        for arguments in (entry.signature.inputs, entry.signature.outputs)
    )
    return replace(entry, signature=replace(entry.signature, inputs=inputs, outputs=outputs))
