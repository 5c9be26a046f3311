"""A weight as a matrix with a row for each magnitude."""

from __future__ import annotations

import pytest
import torch

from wnconvert.rows import magnitude_among, rows_of, units_of, widened
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.network_norm import NetworkNorm
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.schemes.weight_norm import WeightNorm


@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 2), ()])
def test_a_row_has_the_elements_that_one_magnitude_covers(kept):
    weight = torch.randn(3, 4, 5)
    spec = WeightSpec.of(weight, kept)
    g = WeightNorm().split(weight, spec)["g"]
    torch.testing.assert_close(torch.linalg.vector_norm(rows_of(weight, spec), dim=1), g.flatten())


def test_half_precision_is_looked_at_in_float32():
    dtypes = [widened(torch.zeros(1, dtype=dtype)).dtype for dtype in (torch.bfloat16, torch.float16, torch.float64)]
    assert dtypes == [torch.float32, torch.float32, torch.float64]


def test_rows_of_zeros_have_no_direction():
    units, lengths = units_of(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(units, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert lengths.tolist() == [[5.0], [0.0]]


def test_the_magnitude_is_that_of_the_options():
    assert magnitude_among({"g", "v"}, WeightNorm()) == "g"
    assert magnitude_among({"s", "v"}, WeightNorm(log_g=True)) == "s"
    assert magnitude_among({"orig", "u", "v"}, SpectralNorm()) is None
    assert magnitude_among({"network_v", "network_g"}, NetworkNorm()) == "network_g"
    assert magnitude_among({"network_v"}, NetworkNorm()) is None
