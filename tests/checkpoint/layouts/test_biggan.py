from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.checkpoint.layouts import twins
from tests.checkpoint.layouts.grouping import composed, image, only, run_through


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_biggan_recomputes_sigma_from_u0(dtype: torch.dtype) -> None:
    module = nn.Sequential(twins.BigGanConv(5, 6, 3), nn.Conv2d(6, 2, 1)).to(dtype)
    state = run_through(module, image(5, dtype))
    group = only(state)
    assert (group.stem, group.layout, list(group.keys)) == ("0.weight", "biggan", ["weight", "u0", "sv0"])
    weight = composed(group, state)
    assert torch.equal(weight, module[0].normalized())
    assert not torch.equal(weight, state["0.weight"] / state["0.sv0"]), "sv0 is for logging only"
