"""Unit norm against torch's normalize."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import DTYPES, fold, sample
from wnconvert.errors import OptionError
from wnconvert.schemes.unit_norm import UnitNorm


@pytest.mark.parametrize("dim", [0, 1])
def test_it_is_normalize(dim):
    weight = sample(4, 6)
    torch.testing.assert_close(fold(UnitNorm(), weight, (dim,)), F.normalize(weight, dim=1 - dim))
    torch.testing.assert_close(fold(UnitNorm(length=3.0), weight, (dim,)), 3 * F.normalize(weight, dim=1 - dim))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_zeros_or_of_huge_numbers_gets_unit_length_too(dtype):
    weight = sample(4, 6, dtype=dtype)
    weight[0] = 0
    weight[1] = torch.finfo(dtype).max / 2
    lengths = fold(UnitNorm(), weight).double().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4).double(), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("length", [0.0, -1.0, float("inf")])
def test_bad_lengths_are_refused(length):
    with pytest.raises(OptionError, match=r"unit_norm.length is .*; it must be positive"):
        UnitNorm(length=length)
