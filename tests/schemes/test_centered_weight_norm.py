"""Centered weight norm: what g and shift mean, and weight vectors that are constant."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import (
    DTYPES,
    assert_close_in,
    assert_same_bits,
    compose_all,
    fold,
    sample,
    split_all,
    with_gradients,
)
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.centered_weight_norm import CenteredWeightNorm


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 2), ()])
def test_g_and_shift_are_length_and_mean_of_the_weight(kept):
    scheme = CenteredWeightNorm()
    (parts,), (spec,) = split_all(scheme, [sample(4, 3, 5)], kept)
    parts |= {"g": sample(*spec.kept_shape, seed=2).abs(), "shift": sample(*spec.kept_shape, seed=3)}
    composed = scheme.compose(parts, spec)
    torch.testing.assert_close(composed.mean(spec.dims, keepdim=bool(kept)), parts["shift"])
    length = torch.linalg.vector_norm(composed - parts["shift"], dim=spec.dims, keepdim=bool(kept))
    torch.testing.assert_close(length, parts["g"])


def test_without_shift_the_mean_is_all_that_is_lost():
    weight = sample(4, 6)
    composed = fold(CenteredWeightNorm(shift=False), weight)
    torch.testing.assert_close(composed, weight - weight.mean(1, keepdim=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 0.1, -3.7])
def test_a_constant_weight_vector_can_learn(value, dtype):
    scheme = CenteredWeightNorm()
    weight = torch.full((2, 6), value, dtype=dtype)
    assert_same_bits(fold(scheme, weight), weight)
    parts, specs = split_all(scheme, [weight])
    assert not parts[0]["g"].any()
    parts, leaves = with_gradients(parts, ("g", "shift", "c"))
    compose_all(scheme, parts, specs)[0].backward(sample(2, 6, dtype=dtype))
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert leaves[0].grad.all()
    assert leaves[0].grad.abs().max() < 2  # at most the norm of the sample, as the direction has unit length


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_vector_of_one_element_is_its_shift(dtype):
    weight = sample(6, 1, dtype=dtype)
    parts, specs = split_all(CenteredWeightNorm(), [weight])
    parts, (g, shift, c) = with_gradients(parts, ("g", "shift", "c"))
    composed = compose_all(CenteredWeightNorm(), parts, specs)[0]
    assert_same_bits(composed, weight)
    composed.backward(torch.ones_like(weight))
    assert not g.grad.any()
    assert not c.grad.any()
    assert shift.grad.eq(1).all()
    # whatever g is, nothing is divided by the norm, which is zero
    changed = compose_all(CenteredWeightNorm(), [{"g": 3 * torch.ones_like(g), "shift": shift, "c": c}], specs)[0]
    assert_close_in(dtype, changed, weight, roundings=6)


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_bad_eps_is_refused(eps):
    with pytest.raises(OptionError, match=r"centered_weight_norm.eps is .*; it must be positive"):
        CenteredWeightNorm(eps=eps)


def test_kept_dims_are_read_off_g():
    for scheme in (CenteredWeightNorm(), CenteredWeightNorm(shift=False)):
        parts = scheme.split(sample(4, 6), WeightSpec.of(sample(4, 6), (1,)))
        assert scheme.infer_kept(parts, default=(0,)) == (1,)
