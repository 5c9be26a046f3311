"""A fused model against the model as it was, in float64, where only another order of operations tells them apart."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import wnconvert
from wnconvert.report import Report


def stirred(model: nn.Module) -> nn.Module:
    """Return a model in float64 and evaluation mode whose norms have gains, biases and statistics."""
    torch.manual_seed(0)
    for module in model.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if name == "running_var":
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.dim() <= 1:
                tensor.data.uniform_(0.5, 1.5)
    return model.double().eval()


def fused(model: nn.Module, *inputs: Tensor, given: bool = False, **options: Any) -> tuple[nn.Module, Report]:
    """Fuse a copy of a stirred model, compare outputs, and see that the model itself is as it was."""
    state, kept = copy.deepcopy(model.state_dict()), model.state_dict()
    expected = model(*inputs)
    made, report = wnconvert.fuse(model, example_inputs=inputs if given else None, **options)
    with torch.no_grad():
        torch.testing.assert_close(made(*inputs), expected, rtol=1e-10, atol=1e-10)
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], kept[key]) for key in state)
    return made, report


def into(report: Report) -> dict[str, tuple[str, ...]]:
    """Return which weights took in which normalization."""
    return {entry.fqn: entry.into for entry in report.fused}


def reasons(report: Report) -> dict[str, str]:
    """Return why the others were left, by name."""
    return {entry.fqn: entry.reason.why.name for entry in report.skipped}
