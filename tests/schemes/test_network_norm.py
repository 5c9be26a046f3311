"""Network norm: one magnitude for all weights together."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import DTYPES, assert_same_bits, compose_all, sample, split_all, with_gradients
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.network_norm import NetworkNorm

WEIGHTS = [sample(4, 3), sample(5, seed=1), sample(2, 3, 3, seed=2), sample(seed=3)]


def test_g_is_the_length_of_the_whole_network():
    parts, specs = split_all(NetworkNorm(), WEIGHTS, ())
    whole = torch.cat([weight.flatten() for weight in WEIGHTS])
    torch.testing.assert_close(parts[0]["network_g"], whole.norm())
    g = torch.tensor(0.25, dtype=torch.float64)
    composed = compose_all(NetworkNorm(), [{**own, "network_g": g} for own in parts], specs)
    torch.testing.assert_close(torch.cat([weight.flatten() for weight in composed]).norm(), g)
    torch.testing.assert_close(composed, [weight * g / whole.norm() for weight in WEIGHTS])


def test_every_weight_feels_every_other():
    parts, specs = split_all(NetworkNorm(), WEIGHTS, ())
    parts, leaves = with_gradients(parts, ("network_v", "network_g"))
    compose_all(NetworkNorm(), parts, specs)[0].sum().backward()
    assert len(leaves) == len(WEIGHTS) + 1
    assert all(leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_of_zeros_stays_finite_and_can_learn(dtype):
    weights = [torch.zeros(4, 3, dtype=dtype), -torch.zeros(5, dtype=dtype)]
    parts, specs = split_all(NetworkNorm(), weights)
    parts, leaves = with_gradients(parts, ("network_v", "network_g"))
    composed = compose_all(NetworkNorm(), parts, specs)
    for actual, expected in zip(composed, weights, strict=True):
        assert_same_bits(actual, expected)
    (composed[0].sum() + composed[1].sum()).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert leaves[0].grad.eq(1).all()


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
def test_each_weight_keeps_its_dtype(first, second):
    weights = [sample(4, 3, dtype=first), sample(dtype=second)]
    specs = [WeightSpec.of(weight, ()) for weight in weights]
    own = [NetworkNorm().split(weight, spec) for weight, spec in zip(weights, specs, strict=True)]
    shared = NetworkNorm().split_shared(own, specs)
    assert shared["network_g"].dtype == torch.promote_types(first, second)
    g = shared["network_g"] * 0.3  # as after training, so that the ratio is not 1
    composed = compose_all(NetworkNorm(), [{**parts, "network_g": g} for parts in own], specs)
    assert [weight.dtype for weight in composed] == [first, second]


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_bad_eps_is_refused(eps):
    with pytest.raises(OptionError, match=r"network_norm.eps is .*; it must be positive"):
        NetworkNorm(eps=eps)
