"""What folding a trained model saves, and whether it is still the model."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import nn

import wnconvert


@torch.no_grad()
def folded(model: nn.Module, inputs: tuple[Any, ...], rounds: int = 30) -> dict[str, Any]:
    """Fold a model, and compare the two.

    Args:
        model: a trained model; it is not changed.
        inputs: arguments of one call.
        rounds: how often each is timed, in turn.

    Returns:
        How many weights were folded, whether the outputs in evaluation mode have the same bits, and the numbers of
        parameters and the CPU milliseconds of a call before and after.
    """
    model.eval()
    plain, report = wnconvert.fold(_without_mean_only(model))
    same = all(map(torch.equal, _tensors(model(*inputs)), _tensors(plain(*inputs))))
    times: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(rounds):
        for name, each in (("before", model), ("after", plain)):
            start = time.process_time()
            each(*inputs)
            times[name].append(time.process_time() - start)
    return {
        "weights": len(report.converted),
        "equal": same,
        "parameters": [sum(p.numel() for p in each.parameters()) for each in (model, plain)],
        "milliseconds": [round(1000 * min(times[name]), 4) for name in ("before", "after")],
    }


def _without_mean_only(model: nn.Module) -> nn.Module:
    if any(name.endswith("mean_only") for name, _ in model.named_modules()):
        model = copy.deepcopy(model)
        wnconvert.fold_mean_only_batch_norm(model)
    return model


def _tensors(output: Any) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else [each for each in output if isinstance(each, torch.Tensor)]
