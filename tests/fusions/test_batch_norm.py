from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wnconvert.fusions.batch_norm import BatchNorm


@pytest.mark.parametrize("given", [("weight", "bias"), ("weight",), ("bias",), ()])
def test_it_is_the_map_of_torchs_batch_norm(given: tuple[str, ...]):
    torch.manual_seed(0)
    tensors = {name: torch.randn(4) for name in given} | {"running_mean": torch.randn(4), "running_var": torch.rand(4)}
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    affine = BatchNorm().affine(tensors, 1e-3)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    expected = F.batch_norm(
        x, wide["running_mean"], wide["running_var"], wide.get("weight"), wide.get("bias"), eps=1e-3
    )
    made = x * affine.scale[:, None] + affine.shift[:, None]
    torch.testing.assert_close(made, expected, rtol=1e-13, atol=1e-13)
    assert affine.channels == 4
