"""All that can be seen of a model from outside: what it returns, learns, keeps, draws and saves, call after call."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.tracing.cases import X
from wnconvert.tracing.tracing import trace
from wnconvert.verification import same_bits

#: training, gradients, autocast; the first mode comes again at the end
_CIRCUMSTANCES = (
    *((True, True, False), (False, True, False), (True, False, False)),
    *((False, False, True), (True, True, True), (True, True, False)),
)


def seed(number: int = 0) -> None:
    """Seed every generator that a forward may draw from."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def generators() -> tuple[Any, ...]:
    """Return the states of the generators, to be compared."""
    return (torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state(legacy=False)))


def behaviour(model: nn.Module, calls: Sequence[tuple[Any, ...]]) -> list[tuple[str, Any]]:
    """Make every call twice in each mode and return what was seen; the caller writes to what it gets back."""
    seen: list[tuple[str, Any]] = []
    for training, grad, autocast in _CIRCUMSTANCES:
        model.train(training)
        for number, call in enumerate((*calls, *calls)):
            where = f"training={training} grad={grad} autocast={autocast} call={number}"
            inputs = pytree.tree_map_only(Tensor, lambda x: x.clone(), call)
            seed(number)
            with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast):
                outputs = model(*inputs)
            leaves, spec = pytree.tree_flatten(outputs)
            seen.append((f"{where}: structure", str(spec)))
            seen += [(f"{where}: output", x.detach().clone() if isinstance(x, Tensor) else x) for x in leaves]
            seen.append((f"{where}: trained", [isinstance(x, Tensor) and x.requires_grad for x in leaves]))
            seen.append((f"{where}: generators", generators()))
            seen += [(f"{where}: gradient", grad) for grad in _gradients(model, leaves)]
            seen += [(f"{where}: input", x.clone()) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
            for x in leaves:
                if isinstance(x, Tensor):
                    x.data.add_(1)
            seen += [(f"{where}: {key}", _kept(value)) for key, value in model.state_dict().items()]
    return seen


def differences(a: Sequence[tuple[str, Any]], b: Sequence[tuple[str, Any]]) -> list[str]:
    """Say where two behaviours differ."""
    if [name for name, _ in a] != [name for name, _ in b]:
        return ["what there is to be seen"]
    return [name for (name, x), (_, y) in zip(a, b, strict=True) if not _same(x, y)]


def _gradients(model: nn.Module, leaves: list[Any]) -> list[Tensor | None]:
    model.zero_grad()
    summed = [x.float().sum() for x in leaves if isinstance(x, Tensor) and x.grad_fn is not None]
    if summed:
        sum(summed).backward()
    return [parameter.grad for parameter in model.parameters()]


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_bits(a, b) and a.stride() == b.stride()
    return type(a) is type(b) and a == b


def assert_same(build, *calls) -> nn.Module:
    """Trace what ``build`` makes, compare all that can be seen of it, and return the graph."""
    graph_module = trace(build())
    assert not differences(behaviour(graph_module, calls or [(X,)]), behaviour(build(), calls or [(X,)]))
    return graph_module
