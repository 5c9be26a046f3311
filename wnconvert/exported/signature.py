"""What a program says of its tensors: the signature's inputs, the state dict, the constants; in their order.

What a pass left alone stays where it is. What it put into the place of something else stands there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from wnconvert.graph.entries import Entries
from wnconvert.torch_private import transient_of

_Key = TypeVar("_Key", bound=Hashable)

#: the kinds of inputs that stand for tensors, and what torch.export puts before a tensor's name to name its input
PREFIXES = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_", InputKind.CONSTANT_TENSOR: "c_"}


def input_specs(module: nn.Module, program: ExportedProgram) -> list[InputSpec]:
    """Return the signature's inputs; those of new tensors have no name yet.

    Args:
        module: what holds the tensors now.
        program: the program that it was.
    """
    known: dict[Hashable, InputSpec] = {}
    for index, spec in enumerate(program.graph_signature.input_specs):
        known[spec.target if spec.kind in PREFIXES else index] = spec
    specs = {fqn: _spec(module, fqn, tensor, known) for fqn, tensor in Entries(module)}
    order: list[Hashable] = list(known)
    for kind in PREFIXES:
        own = {key for key, spec in known.items() if spec.kind is kind}
        order = merged(order, own, [fqn for fqn, spec in specs.items() if spec.kind is kind])
    return [specs[key] if key in specs else known[key] for key in order if key in specs or isinstance(key, int)]


def _spec(module: nn.Module, fqn: str, tensor: Tensor, known: Mapping[Hashable, InputSpec]) -> InputSpec:
    kind, persistent = InputKind.PARAMETER, None
    if not isinstance(tensor, nn.Parameter):
        kind, persistent = InputKind.BUFFER, _is_persistent(module, fqn)
    old = known.get(fqn)
    if old is not None and old.kind in (kind, InputKind.CONSTANT_TENSOR):
        return old
    return InputSpec(kind, TensorArgument(""), fqn, persistent)


def _is_persistent(module: nn.Module, fqn: str) -> bool:
    path, _, name = fqn.rpartition(".")
    return name not in transient_of(module.get_submodule(path))


def state_and_constants(module: nn.Module, program: ExportedProgram) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict, and what is no part of it: other tensors, and objects that are none."""
    tensors = Entries(module).tensors
    new = {fqn: each for fqn, each in tensors.items() if isinstance(each, nn.Parameter) or _is_persistent(module, fqn)}
    order: list[str] = list(program.state_dict)
    for is_parameter in (True, False):
        own = {key for key, each in program.state_dict.items() if isinstance(each, nn.Parameter) is is_parameter}
        order = merged(order, own, [key for key, each in new.items() if isinstance(each, nn.Parameter) is is_parameter])
    others = {key: each for key, each in program.constants.items() if not isinstance(each, Tensor)}
    constants = {key: tensors.get(key, others.get(key)) for key in program.constants if key in tensors or key in others}
    constants |= {key: each for key, each in tensors.items() if key not in new}
    return {key: tensors[key] for key in order if key in new}, constants


def merged(order: Sequence[_Key], own: set[_Key], new: Sequence[_Key]) -> list[_Key]:
    """Put what is new where it stands in another order: before what follows it there, or behind the last.

    Args:
        order: the old order, of things of all kinds; what is gone is still in it.
        own: those of the kind in question.
        new: what is there now of that kind, in its own order.
    """
    before: dict[_Key, list[_Key]] = {}
    pending: list[_Key] = []
    for key in new:
        if key in own:
            before[key], pending = pending, []
        else:
            pending.append(key)
    last = max((index for index, key in enumerate(order) if key in own), default=-1)
    result = [] if last >= 0 else pending
    for index, key in enumerate(order):
        result += (*before.get(key, ()), key)
        if index == last:
            result += pending
    return list(dict.fromkeys(result))
