"""One step of a model, and everything about it that two models can have in common."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.constructs import BATCH, WIDTH
from tests.fuzz.drawing import Plan
from tests.fuzz.snapshot import DICTS, PLAIN_KINDS, digest, generator_state, random_state

_CONTEXTS = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "autocast": functools.partial(torch.autocast, "cpu", torch.bfloat16),
    "inference": torch.inference_mode,
}
#: what a module has in its dict and what is compared by itself, or belongs to torch and follows from that
_COMPARED_ELSEWHERE = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_COMPARED_ELSEWHERE |= {"_flat_weights", "_flat_weight_refs"}


@dataclass(frozen=True)
class Step:
    """One call of a model.

    Attributes:
        training: the mode.
        context: under what it is called, a key of `_CONTEXTS`.
        call: which of the construct's calls.
        number: seeds the input.
    """

    training: bool
    context: str
    call: int
    number: int

    def __str__(self) -> str:
        mode = "training" if self.training else "evaluation"
        return f"step {self.number} ({mode}, {self.context}, call {self.call})"


@dataclass
class Seen:
    """What a step showed.

    Attributes:
        facts: by name, values that must be equal.
        gradients: of the parameters, by name; not there where there is none.
        random: the generators afterwards.
    """

    facts: dict[str, Any]
    gradients: dict[str, Tensor]
    random: dict[str, Any]


def take(model: nn.Module, plan: Plan, step: Step) -> Seen:
    """Run one step: forward, and backward where something requires a gradient."""
    if model.training != step.training:
        model.train(step.training)
    leaf = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(step.number)).requires_grad_()
    args, kwargs = plan.calls(leaf * 1.0)[step.call]
    entered = tensors_in((args, kwargs))
    with _CONTEXTS[step.context]():
        out = model(*args, **kwargs)
    facts = dict(_facts(out, "output", entered))
    facts.update((f"input {index} afterwards", _bits(x)) for index, x in enumerate(entered))
    gradients = {}
    total = [(x.double() * _probe(x)).sum() for x in tensors_in(out) if x.requires_grad]
    if total and step.context != "inference":
        torch.stack(total).sum().backward()
        facts["gradient of the input"] = None if leaf.grad is None else _bits(leaf.grad)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.grad is not None:
                gradients[name] = parameter.grad
        for parameter in model.parameters():
            parameter.grad = None
    facts.update(buffers(model))
    _write_to(out)
    return Seen(facts, gradients, random_state())


def _write_to(out: Any) -> None:
    """Write to what was returned, which is the caller's: no later call may show it."""
    for x in tensors_in(out):
        if not x.requires_grad:
            with torch.inference_mode(x.is_inference()):
                x.add_(1)


def _probe(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(x.numel())
    return torch.randn(x.shape, generator=generator, dtype=torch.float64)


def _bits(tensor: Tensor) -> Any:
    return (tensor.dtype, tuple(tensor.shape), digest(tensor))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the floating tensors in a nested value, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [tensor for _, inner in _entries(value) for tensor in tensors_in(inner)]


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), entry) for key, entry in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [(str(index), entry) for index, entry in enumerate(value)]
    if is_dataclass(value):
        return [(each.name, getattr(value, each.name)) for each in fields(value)]
    return []


def _facts(value: Any, path: str, entered: list[Tensor]) -> Iterator[tuple[str, Any]]:
    """Yield what is to be known of an output, leaf by leaf."""
    if isinstance(value, Tensor):
        same = next((index for index, x in enumerate(entered) if x is value), None)
        kind = (type(value), value.stride(), value.requires_grad, value.is_inference())
        yield path, (*_bits(value), *kind, f"is input {same}" if same is not None else "")
        return
    entries = _entries(value)
    yield path, (type(value), [key for key, _ in entries] if entries else repr(value))
    for key, entry in entries:
        yield from _facts(entry, f"{path}.{key}", entered)


def buffers(model: nn.Module) -> dict[str, Any]:
    """Return the buffers of a model by name, as values that can be compared."""
    found = model.named_buffers(remove_duplicate=False)
    return {f"buffer {name}": (*_bits(buffer), buffer.stride()) for name, buffer in found}


def attributes(model: nn.Module) -> dict[str, Any]:
    """Return all plain attributes of all modules, as values that can be compared between two models."""
    names = {id(module): f"module {path}" for path, module in model.named_modules()}
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path} (modules)"] = (type(module).__name__, list(module._modules))
        for name, value in vars(module).items():
            if name not in _COMPARED_ELSEWHERE:
                _describe(value, f"{path}.{name}", names, found)
    return found


def _describe(value: Any, path: str, names: dict[int, str], found: dict[str, Any], depth: int = 0) -> None:
    leaf = _leaf(value, names)
    if leaf is not None:
        found[path] = leaf
    elif isinstance(value, types.MethodType):
        found[path] = value.__func__
        _describe(value.__self__, f"{path}.self", names, found, depth + 1)
    elif isinstance(value, functools.partial):
        _describe((value.func, value.args, value.keywords), path, names, found, depth + 1)
    elif type(value).__name__ == "_WrappedHook":  # torch's, which forgets the names of its function when it is copied
        _describe((value.hook, value.with_module), path, names, found, depth + 1)
    else:
        inner = (_entries(value) or list(getattr(value, "__dict__", {}).items())) if depth < 8 else []
        if isinstance(value, Mapping) and all(isinstance(key, int) for key in value):
            # the keys of hooks count all hooks ever made
            inner = [(str(index), entry) for index, (_, entry) in enumerate(inner)]
        state = generator_state(value)
        found[path] = (type(value), state or [str(key) for key, _ in inner] or _plain(value))
        for key, entry in [] if state else inner:
            _describe(entry, f"{path}.{key}", names, found, depth + 1)


def _leaf(value: Any, names: dict[int, str]) -> Any:
    """Return all there is to say of a value on which nothing more hangs, and None for others."""
    if type(value) in PLAIN_KINDS:
        return type(value), repr(value)
    if type(value) in DICTS and not value:  # most of what a module has are dicts of hooks that nobody registered
        return type(value), ""
    if id(value) in names:
        return names[id(value)]
    if isinstance(value, nn.Parameter):
        return "a parameter"
    if isinstance(value, Tensor):
        return *_bits(value), value.requires_grad
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
        return getattr(value, "__qualname__", "")
    return None


def _plain(value: Any) -> str:
    """Return what a value without contents says of itself; addresses say nothing."""
    return repr(value) if type(value).__repr__ is not object.__repr__ else ""
