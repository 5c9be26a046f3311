"""Find the weights of live modules, by what torch and transformers document of their classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wnconvert.fitness import reason_against_layer
from wnconvert.graph.entries import Entries, Entry, join
from wnconvert.modules.computed import is_below, is_part
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.selection import WeightedOp
from wnconvert.torch_private import parameters_of
from wnconvert.weights import expansion


@dataclass(frozen=True)
class Role:
    """What a parameter is: the ops that read it, and the dims that index their output."""

    ops: tuple[str, ...]
    output_dims: tuple[int, ...] | None


@dataclass(frozen=True)
class LiveWeight:
    """A parameter of a live module.

    Attributes:
        tensor: the parameter.
        owners: the places that hold it.
        role: what it is, or None where the module's class does not tell.
        obstacle: why it cannot be composed on reading, if it cannot.
        padding: rows that no op gives a gradient; None leaves that to the classes of its owners.
    """

    tensor: Tensor
    owners: list[Entry]
    role: Role | None
    obstacle: Reason | None = None
    padding: frozenset[int] | None = None

    @property
    def info(self) -> WeightedOp:
        """The weight as a user sees it."""
        first, *others = self.owners
        return WeightedOp(
            fqn=first.fqn,
            ops=self.role.ops if self.role else (),
            shape=() if is_lazy(self.tensor) else tuple(self.tensor.shape),
            dtype=self.tensor.dtype,
            output_dims=self.role.output_dims if self.role else None,
            aliases=tuple([owner.fqn for owner in others]),
        )


def live_weights(entries: Entries, paths: set[str] | None = None) -> Iterator[LiveWeight]:
    """Yield the floating parameters of two or more dims, and of any rank where the class says that they are weights.

    Each is yielded once; parts of computed weights are left out.

    Args:
        entries: the model's tensors.
        paths: dotted names of modules; only what they or their submodules hold.
    """
    seen: set[int] = set()
    for _, tensor in entries:
        owners = entries.owners(tensor)
        if id(tensor) in seen or not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
            continue
        seen.add(id(tensor))
        if any(map(is_part, owners)) or all(isinstance(owner.module, torch.jit.ScriptModule) for owner in owners):
            continue  # of the latter `compiled_weights` tells
        if paths is not None and not any(is_below(owner.path, paths) for owner in owners):
            continue
        roles = [role for owner in owners if (role := role_of(owner.module, owner.name))]
        if roles or (not is_lazy(tensor) and tensor.dim() >= 2):
            obstacles = (reason_against_layer(owner.module) for owner in owners)
            yield LiveWeight(tensor, owners, _joint(roles), next(filter(None, obstacles), None))


def _joint(roles: list[Role]) -> Role | None:
    """Return what a tied parameter is to all of its modules together."""
    if not roles:
        return None
    dims = {role.output_dims for role in roles}
    return Role(tuple(dict.fromkeys(op for role in roles for op in role.ops)), dims.pop() if len(dims) == 1 else None)


def role_of(module: nn.Module, name: str) -> Role | None:
    """Return what the parameter ``name`` is to ``module``, or None where its class does not tell."""
    if isinstance(module, torch.jit.ScriptModule):
        return None  # its code is fixed, so that it has no weights to choose from
    tensor = parameters_of(module).get(name)
    if tensor is None:
        return None
    rule = next((expansion.MODULES[base] for base in type(module).__mro__ if base in expansion.MODULES), None)
    if rule is not None and name == expansion.WEIGHT:
        return Role((rule.name,), None if is_lazy(tensor) else rule.output_dims(module, tuple(tensor.shape)))
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and name.startswith("weight_"):
        return Role((_RECURRENT.get(type(module).__name__, "rnn"),), (0,))
    if isinstance(module, nn.MultiheadAttention) and name.endswith("_proj_weight"):
        return Role(("attention",), (0,))
    if name == expansion.WEIGHT and _is_transposed_linear(module):
        return Role(("linear",), (1,))
    return None


_RECURRENT = {"LSTM": "lstm", "LSTMCell": "lstm", "GRU": "gru", "GRUCell": "gru"}


def _is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, a linear layer that keeps its weight as (in, out)."""
    return any(
        (base.__module__, base.__name__) == ("transformers.pytorch_utils", "Conv1D") for base in type(module).__mro__
    )


def compiled_weights(model: nn.Module) -> Iterator[Skipped]:
    """Yield the weights that TorchScript modules hold: tensors of C++, made anew whenever they are looked at."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            for name, tensor in parameters_of(module).items():
                if tensor is not None and tensor.dim() >= 2 and tensor.is_floating_point():
                    yield Skipped(join(path, name), "", Why.COMPILED(module=path))
