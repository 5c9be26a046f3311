"""Weights that are composed together, of what a scheme gathers from all of them: the norm of a whole network.

While the root of the model runs, it is gathered once; a read outside of that gathers for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wnconvert.scheme import Parts, Scheme, WeightSpec
from wnconvert.torch_private import may_hook_saved_tensors


@dataclass
class Member:
    """One weight of a network.

    It refers to the dicts of its module, which are never replaced by others, and not to the module: so a layer can be
    copied and pickled without all of the model, and nothing refers to itself.

    Attributes:
        fqn: dotted name of the weight below the root.
        keys: names of its parts in the module, by part.
        spec: its static facts.
        parameters: the parameters of its module.
        buffers: the buffers of its module.
    """

    fqn: str
    keys: Mapping[str, str]
    spec: WeightSpec
    parameters: Mapping[str, Tensor | None]
    buffers: Mapping[str, Tensor | None]

    def parts(self) -> dict[str, Tensor]:
        """Return the parts that the module holds now."""
        found = {part: self.parameters.get(key, self.buffers.get(key)) for part, key in self.keys.items()}
        return {part: tensor for part, tensor in found.items() if tensor is not None}


class _Gathered(NamedTuple):
    """What was gathered, from the directions of which members, and whether gradients flow through it."""

    values: dict[str, Tensor]
    directions: list[Tensor]
    differentiable: bool


class Network:
    """The weights that a scheme composes together, and the parts that they have in common.

    Args:
        scheme: the scheme.
        root: the parameters of the model, in which the common parts are.
        members: the weights.
    """

    def __init__(self, scheme: Scheme, root: Mapping[str, Tensor | None], members: list[Member]) -> None:
        self.scheme = scheme
        self.root = root
        self.members = members
        #: what holds while the root runs: for each thread that runs it, and for the one that torch.compile traces
        self._running: dict[int, _Gathered] = {}
        self._traced: _Gathered | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": {}, "_traced": None}

    def common(self, index: int, own: Parts) -> dict[str, Tensor]:
        """Return what one weight needs besides its own parts to be composed.

        Args:
            index: which of the members it is.
            own: its own parts. They are other tensors than the root saw if, say, its module is called by
                `torch.func.functional_call`.
        """
        gathered = self._traced if torch.compiler.is_dynamo_compiling() else self._running.get(threading.get_ident())
        usable = (
            gathered is not None
            and (gathered.differentiable or not torch.is_grad_enabled())
            and gathered.directions[index] is own[self.scheme.direction]
        )
        return (gathered if usable and gathered is not None else self._gather()).values | self._shared()

    def enter(self) -> _Gathered | None:
        """Gather for the reads of this thread until `leave`, and return what held before."""
        gathered = self._gather()
        if torch.compiler.is_dynamo_compiling():
            before, self._traced = self._traced, gathered
            return before
        thread = threading.get_ident()
        before = self._running.get(thread)
        self._running[thread] = gathered
        return before

    def leave(self, before: _Gathered | None) -> None:
        """End what `enter` began; ``before`` is what that returned."""
        if torch.compiler.is_dynamo_compiling():
            self._traced = before
        elif before is None:
            del self._running[threading.get_ident()]
        else:
            self._running[threading.get_ident()] = before

    def load(self, state_dict: dict[str, Any], prefix: str, assigning: bool) -> None:
        """Add the common parts to a state dict that has plain weights instead.

        Args:
            state_dict: the state dict of the model.
            prefix: what its keys begin with.
            assigning: take its tensors as they are, instead of copying their values to those of the model.
        """
        if any(prefix + name in state_dict for name in self.scheme.shared):
            return
        weights = {member.fqn: state_dict.get(prefix + member.fqn) for member in self.members}
        if not any(isinstance(weight, Tensor) for weight in weights.values()):
            return
        parts = []
        for member in self.members:
            own, weight = member.parts(), weights[member.fqn]
            if isinstance(weight, Tensor) and tuple(weight.shape) == member.spec.shape:
                weight = weight.detach() if assigning else weight.detach().to(own[self.scheme.direction])
                own = self.scheme.split(weight, member.spec)
            parts.append(own)
        for name, tensor in self.scheme.split_shared(parts, [member.spec for member in self.members]).items():
            state_dict[prefix + name] = tensor.detach()

    def _shared(self) -> dict[str, Tensor]:
        found = {name: self.root[name] for name in self.scheme.shared}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _gather(self) -> _Gathered:
        parts = [member.parts() for member in self.members]
        # Activation checkpointing counts the tensors that are saved in a region of the model. Whether it is in there
        # that the norm is computed depends on who reads a weight first, and is another matter when it is recomputed.
        watched = not torch.compiler.is_compiling() and may_hook_saved_tensors()
        with torch.autograd.graph.saved_tensors_hooks(_same, _same) if watched else nullcontext():
            values = self.scheme.gather(parts, [member.spec for member in self.members])
        return _Gathered(values, [own[self.scheme.direction] for own in parts], torch.is_grad_enabled())


def _same(tensor: Tensor) -> Tensor:
    return tensor
