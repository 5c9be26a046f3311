"""Scaled weight standardization against timm's ScaledStdConv2d and its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import DTYPES, assert_close_in, compose_all, fold, sample, split_all
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.scaled_weight_standardization import ScaledWeightStandardization


@pytest.mark.parametrize("gamma", [1.0, 1.7881293296813965])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_it_is_a_scaled_batch_norm_of_the_weight(gamma, dtype):
    raw, gain = sample(8, 3, 3, 3, dtype=dtype), sample(8, 1, 1, 1, dtype=dtype, seed=1)
    scheme = ScaledWeightStandardization(gamma=gamma, eps=1e-5)
    scale = gain.view(-1) * gamma * 27**-0.5
    expected = F.batch_norm(raw.reshape(1, 8, -1), None, None, weight=scale, training=True, eps=1e-5).reshape_as(raw)
    composed = scheme.compose({"gain": gain, "raw": raw}, WeightSpec.of(raw))
    torch.testing.assert_close(composed, expected)


@pytest.mark.oracle
def test_it_is_that_of_timm():
    std_conv = pytest.importorskip("timm.layers.std_conv")
    layer = std_conv.ScaledStdConv2d(4, 8, 3, gamma=1.5, groups=2, eps=1e-5, gain_init=0.7).double()
    parts = {"gain": layer.gain.detach(), "raw": layer.weight.detach()}
    composed = ScaledWeightStandardization(gamma=1.5, eps=1e-5).compose(parts, WeightSpec.of(parts["raw"]))
    x = sample(1, 4, 5, 5)
    torch.testing.assert_close(F.conv2d(x, composed, layer.bias, padding=1, groups=2), layer(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_of_mean_zero_keeps_its_function(dtype):
    weight = sample(8, 3, 3, 3)
    weight = (weight - weight.mean((1, 2, 3), keepdim=True)).to(dtype)
    # in half precision the mean is zero to a rounding of the largest element only
    assert_close_in(dtype, fold(ScaledWeightStandardization(), weight), weight, roundings=4)


def test_the_mean_is_all_that_is_lost():
    weight = sample(4, 6)
    composed = fold(ScaledWeightStandardization(gamma=2.0), weight)
    torch.testing.assert_close(composed, weight - weight.mean(1, keepdim=True))


def test_gain_sets_the_variance_of_the_weight():
    scheme = ScaledWeightStandardization(eps=1e-12)
    parts, specs = split_all(scheme, [sample(4, 6)])
    parts[0]["gain"] = torch.full((4, 1), 3.0, dtype=torch.float64)
    deviation = compose_all(scheme, parts, specs)[0].std(1, correction=0)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 3.0 / 6**0.5))
