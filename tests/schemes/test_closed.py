"""Gradients in closed form against those that autograd has of the formula."""

from __future__ import annotations

import pytest
import torch

from tests.contract import ALL, CASES
from tests.helpers import perturbed, sample, split_all, trained, variant_id, with_gradients, with_zeros
from wnconvert.scheme import WeightSpec
from wnconvert.schemes._closed import ClosedScheme, has_rows

CLOSED = [scheme for scheme in ALL if isinstance(scheme, ClosedScheme)]
each_closed = pytest.mark.parametrize("scheme", CLOSED, ids=variant_id)
#: beyond the cases of the contract: what lies in memory in another order
LAYOUTS = [
    (sample(4, 3, 5, 2).contiguous(memory_format=torch.channels_last), (0,)),
    (sample(4, 3, 5, 2).contiguous(memory_format=torch.channels_last), (1,)),
    (sample(4, 3, 5).movedim(0, 1), (0,)),
    (sample(6, 4).t(), (0,)),
    (sample(8, 6)[:, ::2], (0,)),
    (sample(8, 6)[::2], (0,)),
]


def check(scheme: ClosedScheme, weight: torch.Tensor, kept: tuple[int, ...]) -> bool:
    """Compare, if the scheme says that it has gradients for such a weight; return whether."""
    parts, (spec,) = split_all(scheme, [weight], kept)
    (own,), leaves = with_gradients(perturbed(parts, scheme), trained(scheme))
    if not scheme.has_gradients(own, spec):
        return False
    composed = scheme.compose(own, spec)
    for gradient in (sample(*weight.shape, dtype=weight.dtype, seed=5), torch.ones((), dtype=weight.dtype)):
        gradient = gradient.expand(weight.shape)
        expected = torch.autograd.grad(composed, leaves, gradient, retain_graph=True)
        with torch.no_grad():
            statistics = scheme.statistics(own, spec)
            found = scheme.gradients(own, statistics, gradient, trained(scheme), spec)
        for part, one in zip(trained(scheme), expected, strict=True):
            torch.testing.assert_close(found[part], one)
            assert found[part].shape == own[part].shape
    return True


@each_closed
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_those_of_the_formula(scheme, dtype):
    known = [case for case in CASES if check(scheme, sample(*case[0], dtype=dtype), case[1])]
    if getattr(scheme, "unbiased", False) or not getattr(scheme, "eps_in_root", True):
        assert not known  # that is no batch norm
    else:
        assert {((4, 6), (0,)), ((4, 6), (1,)), ((4, 6), ()), ((4, 3, 3, 3), (1,)), ((4, 3, 5), (2,))} <= set(known)
        assert ((1,), (0,)) not in known or scheme.state


@each_closed
def test_other_orders_of_memory_are_known_or_refused(scheme):
    known = [check(scheme, weight, kept) for weight, kept in LAYOUTS]
    if scheme.state:
        assert all(known)
    elif not (getattr(scheme, "unbiased", False) or not getattr(scheme, "eps_in_root", True)):
        assert known[0]


@each_closed
def test_a_row_of_zeros_has_the_gradients_of_the_formula(scheme):
    weight = with_zeros(sample(4, 6), (0,))
    check(scheme, weight, (0,))
    parts, (spec,) = split_all(scheme, [weight])
    (own,), leaves = with_gradients(parts, trained(scheme))
    with torch.no_grad():
        own[scheme.direction][0] = 0
    if not scheme.has_gradients(own, spec):
        return
    gradient = sample(4, 6, seed=1)
    expected = torch.autograd.grad(scheme.compose(own, spec), leaves, gradient)
    with torch.no_grad():
        found = scheme.gradients(own, scheme.statistics(own, spec), gradient, trained(scheme), spec)
    for part, one in zip(trained(scheme), expected, strict=True):
        torch.testing.assert_close(found[part], one, equal_nan=True)


@each_closed
def test_only_what_is_wanted_is_computed(scheme):
    parts, (spec,) = split_all(scheme, [sample(4, 6)])
    if scheme.direction not in trained(scheme) or not scheme.has_gradients(parts[0], spec):
        return
    found = scheme.gradients(parts[0], scheme.statistics(parts[0], spec), sample(4, 6, seed=1), (), spec)
    if len(trained(scheme)) > 1:
        assert found.get(scheme.direction) is None


def test_rows_lie_in_memory_one_after_the_other_or_not():
    x = sample(4, 3, 5, 2)
    assert has_rows(x)
    assert has_rows(x.contiguous(memory_format=torch.channels_last))
    assert not has_rows(x.movedim(0, 1))
    assert not has_rows(x[:, ::2])


def test_blocks_are_what_is_before_the_kept_dim_it_and_what_is_behind():
    assert WeightSpec((4, 3, 5), (1,)).blocks == (4, 3, 5)
    assert WeightSpec((4, 3, 5), (0,)).blocks == (1, 4, 15)
    assert WeightSpec((4, 3, 5), (2,)).blocks == (12, 5, 1)
    assert WeightSpec((4, 3, 5), ()).blocks == (1, 1, 60)
