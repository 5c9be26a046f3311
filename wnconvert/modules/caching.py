"""Weights that are composed once for several forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.fitness import is_distributed
from wnconvert.modules.normalized import Kept, kept
from wnconvert.torch_private import version_of
from wnconvert.weights.loading import split_weights


@dataclass
class Entry:
    """One weight, composed.

    Attributes:
        composed: what the parts gave, and where their gradients are computed from.
        leaf: what forwards read instead, which collects the gradients of all backwards.
        versions: the versions of the parts it was composed of.
    """

    composed: Tensor
    leaf: Tensor
    versions: tuple[int, ...]


@dataclass
class Cache:
    """The weights of one module that were read inside of `cached`, by name, and by whether gradients were on."""

    entries: dict[tuple[str, bool], Entry] = field(default_factory=dict)

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy of the model is not inside of the context

    def weight(self, name: str, parts: list[Tensor], compose: Callable[[], Tensor]) -> Tensor:
        """Return the weight ``name``, composed the first time.

        Raises:
            OptionError: its parts have changed since.
        """
        key, versions = (name, torch.is_grad_enabled()), tuple([version_of(part) for part in parts])
        entry = self.entries.get(key)
        if entry is None:
            with saved_tensors_hooks(_itself, _itself):  # activation checkpointing would count what is saved here
                composed = compose()
            leaf = composed.detach().requires_grad_() if composed.grad_fn is not None else composed
            self.entries[key] = entry = Entry(composed, leaf, versions)
        elif entry.versions != versions:
            raise OptionError(
                f"{name!r} is composed of what has changed inside of wnconvert.cached; leave that before the step"
            )
        return entry.leaf


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
    with `torch.nn.utils.parametrize.cached`, there may be several backwards. State, as the vectors of spectral norm,
    takes one step for all. Values have the bits that they have without; the gradients of parts are sums in another
    order. What torch.compile or torch.func runs is composed as ever.

    Args:
        model: a model that `wnconvert.apply` has converted as a module.

    Raises:
        KindError: the model is wrapped for distributed training, which needs the gradients of parts in each backward;
            or it is a graph, which composes in its own forward.
        NothingToConvertError: no module of it has composed weights.
        OptionError: parts were changed inside, and read again.
    """
    modules = list(model.modules())
    wrapped = any(isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) for module in modules)
    if wrapped or any(map(is_distributed, model.parameters())):
        raise KindError(
            f"{type(model).__name__!r} is distributed: every backward must reach the parameters of all its copies"
        )
    if any(split_weights(module) for module in modules):
        raise KindError(f"{type(model).__name__!r} is a graph, which composes in its own forward; convert the module")
    composing = [found for module in modules if (found := kept(module)) and found.weights]
    if not composing:
        raise NothingToConvertError(f"{type(model).__name__!r} has no composed weight; wnconvert.apply makes some")
    mine = [found for found in composing if found.cache is None]  # of the others takes care who entered before
    for found in mine:
        found.cache = Cache()
    try:
        yield
    finally:
        _hand_on(mine)


def _hand_on(held: list[Kept]) -> None:
    """Forget what was composed, and give its parts the gradients that it got."""
    entries = [entry for each in held if each.cache for entry in each.cache.entries.values()]
    for each in held:
        each.cache = None
    with_gradients = [entry for entry in entries if entry.leaf is not entry.composed and entry.leaf.grad is not None]
    if with_gradients:
        torch.autograd.backward(
            [entry.composed for entry in with_gradients], [entry.leaf.grad for entry in with_gradients]
        )
