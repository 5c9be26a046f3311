"""Weights that are composed once for several forwards and backwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.fitness import is_distributed
from wnconvert.modules.normalized import Kept, kept
from wnconvert.torch_private import address_of, version_of
from wnconvert.weights.loading import split_weights

#: modules, and what was in force for each when the context was entered
_Held = list[tuple[nn.Module, Kept]]


@dataclass
class Entry:
    """One weight, composed.

    Attributes:
        name: its name in its module.
        parts: what it was composed of.
        composed: what the parts gave, and where their gradients are computed from.
        leaf: what forwards read instead, which collects the gradients of all backwards.
        states: what the parts were like.
    """

    name: str
    parts: list[Tensor]
    composed: Tensor
    leaf: Tensor
    states: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.states = [_state(part) for part in self.parts]

    @property
    def waits(self) -> bool:
        """Whether it has gradients that its parts have not."""
        return self.leaf is not self.composed and self.leaf.grad is not None

    def require_unchanged(self) -> None:
        """Raise an error if the parts have changed."""
        if [_state(part) for part in self.parts] != self.states:
            raise OptionError(
                f"{self.name!r} is composed of what has changed inside of wnconvert.cached; leave that before the "
                "step, and before parts are frozen, cast or moved"
            )


@dataclass
class Cache:
    """The weights of one module that were read inside of `cached`, by name, and by how they were read."""

    entries: dict[tuple[str, bool, bool], Entry] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy of the model is not inside of the context

    def weight(self, name: str, parts: list[Tensor], steps: bool, compose: Callable[[], Tensor]) -> Tensor:
        """Return a weight, composed the first time; of other parts than then, as of `functional_call`, as ever.

        Args:
            name: its name.
            parts: what is trained of it.
            steps: whether its state takes a step where it is composed.
            compose: composes it.

        Raises:
            OptionError: its parts have changed since.
        """
        key = (name, torch.is_grad_enabled(), steps)
        with self.lock:  # threads must not have a leaf each, of which one would be lost
            entry = self.entries.get(key)
            if entry is None:
                with saved_tensors_hooks(_itself, _itself):  # activation checkpointing would count what is saved here
                    composed = compose()
                leaf = composed.detach().requires_grad_() if composed.grad_fn is not None else composed
                self.entries[key] = entry = Entry(name, parts, composed, leaf)
        if any(mine is not given for mine, given in zip(entry.parts, parts, strict=True)):
            return compose()
        entry.require_unchanged()
        return entry.leaf


def _state(part: Tensor) -> Any:
    """Return what is another as soon as a tensor is written to, frozen, cast or moved, or gets other data."""
    return version_of(part), part.requires_grad, part.dtype, part.device, address_of(part.untyped_storage())


def _itself(saved: Tensor) -> Tensor:
    return saved


@contextmanager
def cached(model: nn.Module) -> Iterator[None]:
    """Compose each weight of ``model`` once, however often it is read: for gradient accumulation, or a shared layer.

        with wnconvert.cached(model):
            for x, y in micro_batches:
                loss(model(x), y).backward()
        optimizer.step()

    Forwards read a leaf that has the value of the composed weight. It collects the gradients of all backwards, which
    reach the parts when the context is left: they are there for clipping and for the step, and not before. So, unlike
    with `torch.nn.utils.parametrize.cached`, there may be several backwards. State, as the vectors of spectral
    norm, takes one step for all. Values have the bits that they have without; the gradients of parts are sums in
    another order. A backward after it was left is an error, and so is a step of an optimizer while gradients wait. What
    waits, ``zero_grad`` does not see: call that outside.
    What torch.compile or torch.func runs is composed as ever.

    Args:
        model: a model that `wnconvert.apply` has converted as a module.

    Raises:
        KindError: it is no module, or is wrapped for distributed training, which needs the gradients of parts in each
            backward; or it is a graph, which composes in its own forward.
        NothingToConvertError: no module of it has composed weights.
        OptionError: parts were changed, frozen or folded inside, before they had their gradients or were read again.
    """
    if not isinstance(model, nn.Module):
        raise KindError(f"a {type(model).__name__} is no module")
    modules = list(model.modules())
    wrapped = any(isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) for module in modules)
    if wrapped or any(map(is_distributed, model.parameters())):
        raise KindError(
            f"{type(model).__name__!r} is distributed: every backward must reach the parameters of all its copies"
        )
    if any(split_weights(module) for module in modules):
        raise KindError(f"{type(model).__name__!r} is a graph, which composes in its own forward; convert the module")
    composing = [(module, found) for module in modules if (found := kept(module)) and found.weights]
    if not composing:
        raise NothingToConvertError(f"{type(model).__name__!r} has no composed weight; wnconvert.apply makes some")
    mine = [(module, found) for module, found in composing if found.cache is None]  # of others cares who entered before
    for _, found in mine:
        found.cache = Cache()
    guard = register_optimizer_step_pre_hook(lambda optimizer, *_: _require_none_waits(mine, optimizer))
    try:
        yield
    except BaseException:
        with suppress(OptionError):  # what was raised says more
            _hand_on(mine)
        raise
    else:
        _hand_on(mine)
    finally:
        guard.remove()


def _entries(held: _Held) -> list[Entry]:
    return [entry for _, each in held if each.cache for entry in each.cache.entries.values()]


def _require_none_waits(held: _Held, optimizer: torch.optim.Optimizer) -> None:
    """Raise an error if an optimizer is to make a step with parts whose gradients are not there yet."""
    waiting = {id(part): entry.name for entry in _entries(held) if entry.waits for part in entry.parts}
    for group in optimizer.param_groups if waiting else ():
        for parameter in group["params"]:
            if id(parameter) in waiting:
                raise OptionError(
                    f"a step inside of wnconvert.cached, where the parts of {waiting[id(parameter)]!r} have no "
                    "gradients yet; leave that before the step"
                )


def _require_composed(module: nn.Module, cache: Cache) -> None:
    """Raise an error if gradients wait for the parts of a weight that the module composes no longer."""
    now = kept(module)
    for entry in cache.entries.values():
        if entry.waits and (now is None or entry.name not in now.weights):
            raise OptionError(
                f"{entry.name!r} was folded inside of wnconvert.cached, where its parts had no gradients yet; leave "
                "that before"
            )


def _hand_on(held: _Held) -> None:
    """Forget what was composed, and give its parts the gradients that it got."""
    entries, caches = _entries(held), [(module, each.cache) for module, each in held if each.cache]
    for _, each in held:
        each.cache = None
    for entry in entries:
        if entry.leaf is not entry.composed:
            entry.leaf.register_hook(_refuse)  # type: ignore[no-untyped-call]
    waiting = [entry for entry in entries if entry.waits]
    for module, cache in caches:
        _require_composed(module, cache)
    for entry in waiting:
        entry.require_unchanged()
    if waiting:
        torch.autograd.backward([entry.composed for entry in waiting], [entry.leaf.grad for entry in waiting])


def _refuse(gradient: Tensor) -> None:
    raise OptionError("a backward through what was composed inside of wnconvert.cached, which was left; do it inside")
