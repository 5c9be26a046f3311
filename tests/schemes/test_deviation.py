"""The bits of torch.std, or none."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import assert_same_bits
from wnconvert.scheme import WeightSpec
from wnconvert.schemes._deviation import quick_std


def weights() -> list[torch.Tensor]:
    """Return weights of many distributions, the nastiest of them far from zero."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in [(512, 512), (64, 64, 3, 3), (2048, 2), (4096, 1), (3, 40000), (256, 17, 5)]:
        x = torch.randn(*shape, generator=generator)
        scales = torch.logspace(-18, 17, shape[0]).view(-1, *[1] * (len(shape) - 1))
        made += [x, x * 1e-3, x * 0.02 + 0.1, x.exp(), x.sign(), torch.rand(shape, generator=generator), x * scales]
        made += [x.round(), x + 30, (x * 100).round() / 128]
    return made


@pytest.mark.parametrize("correction", [0, 1])
def test_each_bit_is_that_of_torch_or_torch_is_asked(correction):
    taken = 0
    for weight in weights():
        spec = WeightSpec.of(weight)
        found = quick_std(weight, spec, correction)
        if found is not None:
            taken += 1
            assert_same_bits(found, torch.std(weight, spec.dims, correction=correction, keepdim=True))
    assert taken >= 20


@pytest.mark.parametrize("kept", [(1,), (2,), (0, 2)])
def test_other_dims_and_layouts_have_the_same_bits(kept):
    for weight in (torch.randn(64, 32, 24), torch.randn(24, 64, 32).permute(1, 2, 0), torch.randn(64, 64, 24)[:, ::2]):
        spec = WeightSpec.of(weight, kept)
        found = quick_std(weight, spec, 0)
        assert found is not None
        assert_same_bits(found, torch.std(weight, spec.dims, correction=0, keepdim=True))


def test_a_million_rows_have_the_same_bits():
    weight = torch.randn(100_000, 10)
    found = quick_std(weight, WeightSpec.of(weight), 0)
    expected = torch.std(weight, 1, correction=0, keepdim=True)
    if found is not None:
        assert_same_bits(found, expected)
    for rows in weight.split(1000):
        found = quick_std(rows, WeightSpec.of(rows), 0)
        if found is not None:
            assert_same_bits(found, torch.std(rows, 1, correction=0, keepdim=True))


@pytest.mark.parametrize("value", [0.1, -3.7, math.nan, math.inf])
def test_a_row_without_a_deviation_is_left_to_torch(value):
    weight = torch.randn(64, 64)
    weight[3] = value
    assert quick_std(weight, WeightSpec.of(weight), 0) is None


def test_the_deviation_of_zeros_is_zero():
    weight = torch.randn(64, 64)
    weight[3] = 0.0
    found = quick_std(weight, WeightSpec.of(weight), 0)
    assert found is not None
    assert_same_bits(found, torch.std(weight, 1, correction=0, keepdim=True))


def test_a_mean_that_hides_the_deviation_is_left_to_torch():
    weight = torch.randn(64, 64) + 1e5
    assert quick_std(weight, WeightSpec.of(weight), 0) is None


def test_a_deviation_halfway_between_two_numbers_is_left_to_torch():
    halfway = 1 + 2.0**-24
    weight = torch.tensor([1.0, -1.0]).repeat(64, 32)
    upper = torch.tensor(1.0).nextafter(torch.tensor(2.0))
    # half of the squares are 1 and half are upper**2, so that the deviation is just about halfway
    weight[0, :32] = weight[0, :32] * upper
    assert torch.std(weight.double(), 1, correction=0)[0].item() == pytest.approx(halfway, abs=1e-13)
    assert quick_std(weight, WeightSpec.of(weight), 0) is None


def test_what_is_not_worth_it_or_not_known_is_left_to_torch():
    many = torch.randn(64, 64)
    assert quick_std(many, WeightSpec.of(many), 0) is not None
    for weight, kept in [
        (many.double(), (0,)),
        (many.half(), (0,)),
        (many.to("meta"), (0,)),
        (many[:8], (0,)),
        (many, ()),
    ]:
        assert quick_std(weight, WeightSpec.of(weight, kept), 0) is None
