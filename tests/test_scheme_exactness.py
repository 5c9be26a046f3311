"""Every scheme gives a weight back to the bit, or says that it does not, and never what is not finite."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings, strategies as st

from tests.contract import each, each_case, each_changing, each_dtype, each_preserving
from tests.helpers import (
    DTYPES,
    assert_same_bits,
    compose_all,
    fold,
    sample,
    split_all,
    trained,
    with_gradients,
    with_zeros,
)
from wnconvert.scheme import WeightSpec


@each_preserving
@each_case
@each_dtype
def test_compose_inverts_split_to_the_bit(scheme, shape, kept, dtype):
    weight = sample(*shape, dtype=dtype)
    assert_same_bits(fold(scheme, weight, kept), weight)


@each_preserving
@each_case
@each_dtype
def test_a_zero_channel_survives_to_the_bit(scheme, shape, kept, dtype):
    weight = with_zeros(sample(*shape, dtype=dtype), kept)
    assert_same_bits(fold(scheme, weight, kept), weight)


@each_preserving
@each_dtype
def test_a_constant_channel_survives_to_the_bit(scheme, dtype):
    weight = sample(4, 6, dtype=dtype)
    weight[0], weight[1], weight[2] = 0.1, -3.7, 1.0
    parts, specs = split_all(scheme, [weight])
    parts, leaves = with_gradients(parts, trained(scheme))
    composed = compose_all(scheme, parts, specs)[0]
    assert_same_bits(composed, weight)
    composed.backward(sample(4, 6, dtype=dtype, seed=1))
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@each_preserving
@each_dtype
def test_a_channel_too_small_for_its_squares_survives_to_the_bit(scheme, dtype):
    # weight decay leaves dead channels like this
    weight = sample(4, 6)
    weight[0] *= 2.0 ** {torch.float64: -600, torch.float16: -20}.get(dtype, -80)
    weight = weight.to(dtype)
    assert not weight[0].square().sum()
    assert_same_bits(fold(scheme, weight), weight)
    assert_same_bits(fold(scheme, weight[:1]), weight[:1])


@each_preserving
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_weight_survives_to_the_bit(scheme, data):
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    shape = data.draw(st.lists(st.integers(1, 5), max_size=4), "shape")
    kept = tuple(sorted(data.draw(st.sets(st.sampled_from(range(len(shape))) if shape else st.nothing()), "kept")))
    seed = data.draw(st.integers(0, 2**20), "seed")
    weight = sample(*shape, dtype=torch.float64, seed=seed)
    # channels of very different size, down to where their squares underflow, as weight decay leaves dead ones
    low = max(round(math.log2(torch.finfo(dtype).tiny)) + 12, -120)
    exponents = data.draw(st.lists(st.integers(low, 6), min_size=1, max_size=4), "exponents")
    for i, channel in enumerate(weight if shape else [weight]):
        channel.mul_(2.0 ** exponents[i % len(exponents)])
    weight = weight.to(dtype)
    assert_same_bits(fold(scheme, weight, kept), weight)


@each_preserving
@each_dtype
def test_a_network_survives_to_the_bit(scheme, dtype):
    weights = [sample(4, 3, dtype=dtype), torch.zeros(3, 3, dtype=dtype), sample(5, 2, 3, dtype=dtype, seed=1)]
    for actual, expected in zip(compose_all(scheme, *split_all(scheme, weights)), weights, strict=True):
        assert_same_bits(actual, expected)


@each_preserving
def test_a_network_of_several_dtypes_survives_to_the_bit(scheme):
    weights = [sample(4, 3, dtype=dtype, seed=seed) for seed, dtype in enumerate(DTYPES)]
    weights += [sample(dtype=dtype, seed=seed) for seed, dtype in enumerate(DTYPES)]
    specs = [WeightSpec.of(weight, (0,) if weight.dim() else ()) for weight in weights]
    own = [scheme.split(weight, spec) for weight, spec in zip(weights, specs, strict=True)]
    shared = scheme.split_shared(own, specs)
    for actual, expected in zip(
        compose_all(scheme, [{**parts, **shared} for parts in own], specs), weights, strict=True
    ):
        assert_same_bits(actual, expected)


@each_changing
@each_dtype
def test_what_is_not_preserving_changes_the_weight(scheme, dtype):
    weight = sample(4, 6, dtype=dtype)
    assert (fold(scheme, weight) - weight).abs().max() > 0.01


@each_changing
@each_case
def test_folding_again_changes_no_more(scheme, shape, kept):
    weight = sample(*shape)
    # where eps is added to a statistic, each fold changes the scale by the part of eps in it: settled after three
    for _ in range(3):
        weight = fold(scheme, weight, kept)
    torch.testing.assert_close(fold(scheme, weight, kept), weight, rtol=1e-10, atol=1e-10)


@each_case
@each
def test_zero_weights_stay_finite(scheme, shape, kept):
    for dtype in DTYPES:
        for weight in (with_zeros(sample(*shape, dtype=dtype), kept), torch.zeros(shape, dtype=dtype)):
            parts, specs = split_all(scheme, [weight], kept)
            parts, leaves = with_gradients(parts, trained(scheme))
            composed = compose_all(scheme, parts, specs)[0]
            assert composed.isfinite().all()
            composed.backward(sample(*shape, dtype=dtype, seed=1))
            assert all(leaf.grad.isfinite().all() for leaf in leaves)


@each
@each_dtype
def test_a_zero_weight_can_learn_again(scheme, dtype):
    parts, specs = split_all(scheme, [torch.zeros(4, 6, dtype=dtype)])
    parts, leaves = with_gradients(parts, trained(scheme))
    compose_all(scheme, parts, specs)[0].backward(sample(4, 6, dtype=dtype, seed=1))
    assert any(leaf.grad.any() for leaf in leaves)
