"""Sigma reparametrization: gamma is the largest singular value. Its power iteration is tested with spectral norm."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import DTYPES, assert_same_bits, fold, sample, split_all
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.sigma_reparam import SigmaReparam


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 2), ()])
def test_gamma_is_the_largest_singular_value_of_the_weight(kept):
    scheme = SigmaReparam()
    (parts,), (spec,) = split_all(scheme, [sample(4, 3, 5)], kept)
    parts["gamma"] = torch.tensor(2.5, dtype=torch.float64)
    composed = scheme.compose(parts, spec).movedim(kept, tuple(range(len(kept)))).reshape(-1, spec.fan_in)
    torch.testing.assert_close(torch.linalg.matrix_norm(composed, 2).item(), 2.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_of_zeros_gets_a_direction(dtype):
    weight = torch.zeros(4, 6, dtype=dtype)
    weight[1, 2] = -0.0
    parts = SigmaReparam().split(weight, WeightSpec.of(weight))
    assert parts["gamma"] == 0
    assert parts["orig"].abs().eq(1).all()
    assert_same_bits(fold(SigmaReparam(), weight), weight)


def test_a_norm_that_overflows_or_underflows_on_the_way_is_scaled():
    for size in (1e30, 1e-30):
        weight = sample(4, 6, dtype=torch.float32) * size
        assert torch.linalg.vector_norm(weight) in (0.0, float("inf"))
        assert_same_bits(fold(SigmaReparam(), weight), weight)


def test_updates_leave_a_converged_weight_nearly_alone():
    scheme = SigmaReparam()
    (parts,), (spec,) = split_all(scheme, [sample(4, 6)])
    torch.testing.assert_close(scheme.compose({**parts, **scheme.update(parts, spec)}, spec), sample(4, 6))
