"""Data-dependent initialization: each layer starts with pre-activations of mean 0 and variance 1.

    t = v . x / norm(v),    g = 1 / std(t),    b = -mean(t) / std(t)

Salimans & Kingma 2016, section 3, https://arxiv.org/abs/1602.07868: unit by unit, over a batch, layer after layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from wnconvert.errors import KindError, NothingToConvertError, OptionError
from wnconvert.fitness import is_distributed
from wnconvert.graph.copying import clone
from wnconvert.modules.wrapped import reason_against_apply
from wnconvert.report import Report
from wnconvert.training.composed import Composed, composed_weights
from wnconvert.training.initialization.pooling import Pooling
from wnconvert.training.initialization.preactivations import Initialization, Mask
from wnconvert.training.initialization.randomness import Randomness

#: positional arguments, and arguments by name
_Given: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@torch.no_grad()
def initialize(model: nn.Module, batches: Iterable[Any], *, mask: Mask | None = None) -> Initialization:
    """Give the pre-activations of each composed weight mean 0 and variance 1, unit by unit, on some batches.

    Magnitudes (``g``, ``gain``, ``s``; with ``shift``) and biases are set, in the order in which layers run, so each is
    set on what the layers before it give then; directions stay. Without a bias the mean stays. Statistics are those of
    all batches together, as the model is now, in training or in evaluation. A copy of it runs, and what it changes
    there, such as buffers, does not come back. If anything fails, nothing of the model is changed.

    Every batch runs three times, however many layers there are. Where a weight is read several times, or in an order
    that is not that of other batches, its statistics are pooled, which takes more runs: one for each round, until
    both numbers are reached, and at most a hundred.

    Args:
        model: a converted model, module or graph, or one with torch's own weight norm.
        batches: what the model is called with, once for each: a tensor, positional arguments in a tuple or list, or
            arguments by name in a dict. All are held in memory, as are the activations of all.
        mask: which positions count: called with a batch and the shape of a layer's output without the units,
            ``(batch, time)`` say, it returns booleans that broadcast to it.

    Returns:
        what was initialized, with the statistics before, and what was not, and why.

    Raises:
        KindError: it is no module, or one that is wrapped or sharded.
        NothingToConvertError: it has no composed weight that can be initialized.
        OptionError: there are no batches, the model does not run on them, they give values that are not finite, or
            fewer than two of a unit.
        CopyError: the model cannot be copied.
    """
    weights = composed_weights(model)
    _require_plain(model, weights)
    given = [(batch, _arguments(batch)) for batch in _list(batches)]
    with Randomness.restored():
        copied = clone(model, instead="a copy is what runs, so initialize it without what cannot be copied")
        pooling = Pooling(copied, composed_weights(copied), mask)
        outcome = pooling.run([(batch, _forward(args, kwargs)) for batch, (args, kwargs) in given])
    if not outcome.initialized:
        first = outcome.skipped[0]
        raise NothingToConvertError(
            f"no weight of {type(model).__name__!r} can be initialized: {first.fqn!r}, {first.reason}",
            report=Report(skipped=outcome.skipped),
        )
    new = dict(copied.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters():
        if id(new[name]) in pooling.changed:
            parameter.copy_(new[name])
    return outcome


def _require_plain(model: nn.Module, weights: list[Composed]) -> None:
    if not weights:
        raise NothingToConvertError(
            f"{type(model).__name__!r} has no composed weight to initialize; wnconvert.apply makes some"
        )
    reason = reason_against_apply(model)
    if reason is not None or any(map(is_distributed, model.parameters())):
        raise KindError(
            f"{type(model).__name__!r} is wrapped or sharded, and each process would initialize it on its own batches; "
            "initialize the plain model first, in one process, and wrap the result"
        )
    for weight in weights:
        if weight.direction.is_meta:
            raise OptionError(f"weight {weight.fqn!r} has no data; load some first")


def _list(batches: Iterable[Any]) -> list[Any]:
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise OptionError(f"batches is one {type(batches).__name__}; it must be several, such as [batch]")
    found = list(batches)
    if not found:
        raise OptionError("batches is empty; an iterator that was used up gives no more, a list does")
    return found


def _arguments(batch: Any) -> _Given:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


def _forward(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[nn.Module], None]:
    def forward(model: nn.Module) -> None:
        # a forward may change its arguments
        own: Any = map_aggregate((args, kwargs), _copied)
        model(*own[0], **own[1])

    return forward


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
