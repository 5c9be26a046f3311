"""Weights in the precision of the live module, or in the best one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.checkpoint.conftest import checkpoint
from tests.checkpoint.layouts.grouping import HALF, composed, only
from wnconvert.checkpoint import fold


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_file_of_torch_is_folded_in_half_precision_as_torch_computes_it(dtype: torch.dtype) -> None:
    module = nn.utils.weight_norm(nn.Conv1d(16, 16, 5).to(dtype))
    folded = fold(checkpoint(module.state_dict())).checkpoint.content["weight"]
    assert torch.equal(folded, torch._weight_norm(module.weight_v, module.weight_g, 0))


def test_the_reference_precision_is_the_same_for_every_way_in() -> None:
    module = nn.utils.weight_norm(nn.Conv1d(64, 64, 5))
    v, g = module.weight_v.detach().double(), module.weight_g.detach().double()
    expected = (v * (g / v.flatten(1).norm(dim=1)[:, None, None])).float()
    content = checkpoint(module.state_dict())
    for folded in (fold(content, precision="reference"), fold(content, scheme="weight_norm", precision="reference")):
        assert torch.equal(folded.checkpoint.content["weight"], expected)
    assert not torch.equal(fold(content).checkpoint.content["weight"], expected)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_the_reference_is_float64_rounded_once(dtype: torch.dtype) -> None:
    state = nn.utils.weight_norm(nn.Conv1d(8, 16, 5).to(dtype)).state_dict()
    group = only(state)
    g, v = state["weight_g"].double(), state["weight_v"].double()
    expected = (v * (g / v.flatten(1).norm(dim=1)[:, None, None])).to(dtype)
    assert torch.equal(composed(group, state, "reference"), expected)
