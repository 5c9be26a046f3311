"""Run a model and its graph side by side, and see whether they do the same."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.errors import TracingError, described
from wnconvert.graph.copying import clone
from wnconvert.torch_private import pytree
from wnconvert.tracing.circumstances import generators_restored
from wnconvert.verification import same_bits


@generators_restored()
def require_same(model: nn.Module, graph_module: nn.Module, example_inputs: tuple[Any, ...]) -> None:
    """Compare copies of both in training and in evaluation mode, two calls in a row, with the same random numbers.

    Raises:
        TracingError: outputs, gradients or buffers differ, in a bit, a dtype or a stride.
    """
    for training in (True, False):
        mine, its = (_run(clone(each), training, example_inputs) for each in (model, graph_module))
        for (what, a), (_, b) in zip(mine, its, strict=True):
            if not _same(a, b):
                mode = "training" if training else "evaluation"
                raise TracingError(
                    f"the graph of {type(model).__name__!r} gives other {what} than the model in {mode} mode; "
                    "convert the module itself (how='module')"
                )


def _run(model: nn.Module, training: bool, example_inputs: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Call ``model`` twice; return what comes of it."""
    found: list[tuple[str, Any]] = []
    if model.training != training:
        model.train(training)
    devices = list({x.device for x in model.parameters() if x.is_cuda})
    with torch.random.fork_rng(devices), generators_restored():
        torch.manual_seed(0)
        random.seed(0)
        for _ in range(2):
            try:
                outputs = model(*copy.deepcopy(example_inputs))
            except Exception as error:
                name = type(model).__name__
                raise TracingError(f"{name!r} does not run on the example inputs: {described(error)}") from error
            tensors = [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]
            found.append(("outputs", tensors))
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            summed = [x.float().sum() for x in tensors if x.requires_grad]
            found.append(("gradients", _gradients(summed, trained) if summed and trained else {}))
            found.append(("buffers", {name: buffer.clone() for name, buffer in model.named_buffers()}))
    return found


def _gradients(outputs: list[Tensor], trained: Mapping[str, Tensor]) -> Any:
    try:
        grads = torch.autograd.grad(sum(outputs[1:], outputs[0]), list(trained.values()), allow_unused=True)
    except RuntimeError:
        return None  # what cannot be differentiated
    return dict(zip(trained, grads, strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if a is None or b is None:
        return a is b
    if not a.is_floating_point() and not a.is_complex():
        return a.dtype == b.dtype and torch.equal(a, b)
    return same_bits(a, b) and a.stride() == b.stride()
