"""Statistics over reduced dims, and directions that have a norm."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import DTYPES, assert_same_bits, sample
from wnconvert.scheme import WeightSpec
from wnconvert.schemes import _norms as norms

KEPT = [((4, 6), (0,)), ((4, 6), (1,)), ((4, 3, 5), (0, 2)), ((4, 6), ())]
each_kept = pytest.mark.parametrize(("shape", "kept"), KEPT)


@each_kept
def test_statistics_have_the_shape_of_a_magnitude(shape, kept):
    weight = sample(*shape, dtype=torch.float64)
    spec = WeightSpec.of(weight, kept)
    rows = weight.permute(*spec.kept, *spec.dims).reshape(spec.rows, spec.fan_in)
    found = {
        "norm": (norms.norm(weight, spec), rows.norm(dim=1)),
        "sum": (norms.norm(weight, spec, 1.0), rows.abs().sum(1)),
        "largest": (norms.largest(weight, spec), rows.abs().amax(1)),
        "mean": (norms.mean(weight, spec), rows.mean(1)),
        "std": (norms.std(weight, spec), rows.std(1, correction=0)),
        "unbiased": (norms.std(weight, spec, unbiased=True), rows.std(1)),
        "with eps": (norms.std_with_eps(weight, spec, 0.5), (rows.var(1, correction=0) + 0.5).sqrt()),
    }
    for value, expected in found.values():
        assert tuple(value.shape) == spec.kept_shape
        torch.testing.assert_close(value.flatten(), expected)


def test_where_nothing_is_reduced_each_element_is_its_own_channel():
    weight = torch.tensor([[-2.0, 0.5]])
    spec = WeightSpec.of(weight, (0, 1))
    assert torch.equal(norms.norm(weight, spec), weight.abs())
    assert torch.equal(norms.mean(weight, spec), weight)
    assert torch.equal(norms.std(weight, spec, unbiased=True), torch.zeros(1, 2))


def test_the_deviation_of_one_element_is_zero_unbiased_or_not():
    weight = torch.tensor([[3.0], [4.0]])
    assert torch.equal(norms.std(weight, WeightSpec.of(weight), unbiased=True), torch.zeros(2, 1))


def test_a_deviation_whose_variance_underflows_is_not_lost():
    weight = torch.tensor([[1e-5, -1e-5]], dtype=torch.float16)
    found = norms.std_with_eps(weight, WeightSpec.of(weight), 1e-10)
    torch.testing.assert_close(found.float().item(), math.sqrt(2) * 1e-5, rtol=0.02, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_autocast_gives_the_same_bits(dtype):
    weight = sample(4, 6, dtype=dtype)
    spec = WeightSpec.of(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(norms.norm(weight, spec), norms.norm(weight, spec).to(dtype))
    assert norms.rounded(torch.ones(1), weight, spec).dtype == dtype
    assert norms.rounded(torch.ones(1, dtype=torch.float64), weight, WeightSpec((4, 6), (0,))).dtype == torch.float64


@pytest.mark.parametrize(
    ("values", "usable"),
    [([1.0, 2.0], True), ([0.0, 2.0], False), ([1.0, math.inf], False), ([1.0, math.nan], False)],
)
def test_a_usable_norm_is_positive_and_finite(values, usable):
    assert norms.usable(torch.tensor(values)) is usable
    assert norms.usable(torch.tensor(values, device="meta"))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_every_channel_is_repaired_to_a_usable_norm(dtype):
    info = torch.finfo(dtype)
    peaks = torch.tensor([0.0, info.tiny, info.smallest_normal * 2**-3, 1.5, info.max / 2], dtype=dtype)
    weight = sample(5, 6).sign().to(dtype) * peaks.unsqueeze(1)
    direction, exponent = norms.repaired(weight, WeightSpec.of(weight))
    assert norms.usable(norms.norm(direction, WeightSpec.of(weight)))
    assert torch.equal(direction[0], sample(5, 6)[0].sign().to(dtype))
    # powers of two change no mantissa
    assert_same_bits(norms.times_power_of_two(direction, exponent)[1:], weight[1:])
    assert direction[1:].abs().max() <= 1


def test_a_channel_of_zeros_keeps_their_signs():
    direction, exponent = norms.repaired(torch.tensor([[0.0, -0.0]]), WeightSpec((1, 2), (0,)))
    assert torch.equal(direction, torch.tensor([[1.0, -1.0]]))
    assert exponent.item() == 0


def test_a_channel_that_is_not_finite_is_left_alone():
    weight = torch.tensor([[math.inf, 3.0]])
    direction, exponent = norms.repaired(weight, WeightSpec.of(weight))
    assert torch.equal(direction, weight)
    assert exponent.item() == 0


def test_a_power_of_two_beyond_the_range_is_taken_in_two_steps():
    tiny = torch.tensor([2.0**-1074, 2.0**-1000], dtype=torch.float64)
    found = norms.times_power_of_two(tiny, torch.tensor([2000, 1500]))
    assert torch.equal(found, torch.tensor([2.0**926, 2.0**500], dtype=torch.float64))


def test_a_weight_without_elements_has_a_fan_in():
    assert norms.root_fan_in(WeightSpec((3, 0), (0,))) == 1
    assert norms.root_fan_in(WeightSpec((3, 9), (0,))) == 3
