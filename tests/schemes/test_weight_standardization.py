"""Weight standardization against what timm, the authors and mmcv compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import DTYPES, assert_same_bits, compose_all, fold, sample, split_all
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.weight_standardization import WeightStandardization


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 1e-8])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_plain_is_a_batch_norm_of_the_weight_as_in_timm(eps, dtype):
    weight = sample(8, 3, 3, 3, dtype=dtype)
    expected = F.batch_norm(weight.reshape(1, 8, -1), None, None, training=True, eps=eps).reshape_as(weight)
    torch.testing.assert_close(fold(WeightStandardization(affine=False, eps=eps), weight), expected)


@pytest.mark.oracle
def test_plain_is_that_of_timm():
    std_conv = pytest.importorskip("timm.layers.std_conv")
    layer = std_conv.StdConv2d(3, 8, 3, eps=1e-8).double()
    scheme = WeightStandardization(affine=False, eps=1e-8)
    x = sample(1, 3, 5, 5)
    composed = fold(scheme, layer.weight.detach())
    torch.testing.assert_close(F.conv2d(x, composed, padding=1), layer(x))


def test_plain_of_the_authors_and_of_mmcv():
    weight = sample(8, 3, 3, 3)
    flat = weight.flatten(1)
    shape = (8, 1, 1, 1)
    centered = weight - flat.mean(1).view(shape)
    conv_ws = centered / (flat.std(1) + 1e-3).view(shape)
    conv_aws = centered / (flat.var(1) + 1e-3).sqrt().view(shape)
    outside = WeightStandardization(affine=False, eps=1e-3, unbiased=True, eps_in_root=False)
    inside = WeightStandardization(affine=False, eps=1e-3, unbiased=True)
    torch.testing.assert_close(fold(outside, weight), conv_ws)
    torch.testing.assert_close(fold(inside, weight), conv_aws)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("eps_in_root", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_is_exact_with_all_options(unbiased, eps_in_root, dtype):
    scheme = WeightStandardization(unbiased=unbiased, eps_in_root=eps_in_root, eps=1e-3)
    for shape, kept in [((8, 3, 3, 3), (0,)), ((8, 3), ()), ((8, 1), (0,)), ((8,), (0,)), ((), ())]:
        assert_same_bits(fold(scheme, sample(*shape, dtype=dtype), kept), sample(*shape, dtype=dtype))


def test_gain_and_shift_are_standard_deviation_and_mean_of_the_weight():
    scheme = WeightStandardization(eps=1e-12)
    parts, specs = split_all(scheme, [sample(4, 6)])
    parts[0] |= {"gain": sample(4, 1, seed=2).abs(), "shift": sample(4, 1, seed=3)}
    composed = compose_all(scheme, parts, specs)[0]
    torch.testing.assert_close(composed.std(1, correction=0, keepdim=True), parts[0]["gain"])
    torch.testing.assert_close(composed.mean(1, keepdim=True), parts[0]["shift"])


def test_a_small_deviation_keeps_its_precision_in_float16():
    weight = (sample(4, 64) * 1e-3).half()
    assert torch.var(weight, 1).max() < torch.finfo(torch.float16).tiny
    composed = fold(WeightStandardization(affine=False, eps=1e-8), weight)
    expected = fold(WeightStandardization(affine=False, eps=1e-8), weight.double())
    torch.testing.assert_close(composed, expected.half(), rtol=4e-3, atol=4e-3)  # four roundings at up to 3


@pytest.mark.parametrize("eps", [0.0, -1.0, float("inf")])
def test_bad_eps_is_refused(eps):
    with pytest.raises(OptionError, match=r"weight_standardization.eps is .*; it must be positive"):
        WeightStandardization(eps=eps)


def test_kept_dims_are_read_off_gain_and_plain_tells_none():
    weight = sample(4, 6)
    spec = WeightSpec.of(weight, (1,))
    affine, plain = WeightStandardization(), WeightStandardization(affine=False)
    assert affine.infer_kept(affine.split(weight, spec), default=(0,)) == (1,)
    assert plain.infer_kept(plain.split(weight, spec), default=(0,)) == (0,)
