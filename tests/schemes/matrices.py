"""Weights as matrices, whose singular values are looked at."""

from __future__ import annotations

import pytest
import torch

SHAPES = [((4, 6), 0), ((6, 4), 1), ((5, 3, 2), 0), ((5, 3, 2), 2), ((4, 3, 2, 2), 1), ((3, 3, 3, 3), 1)]
each_shape = pytest.mark.parametrize(("shape", "dim"), SHAPES)


def matrix(weight: torch.Tensor, dim: int) -> torch.Tensor:
    return weight.movedim(dim, 0).flatten(1)
