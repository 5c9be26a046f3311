"""The gradients of every scheme are those of its formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract import each, each_case, each_dtype
from tests.helpers import (
    compose_all,
    evaluate_formula,
    perturbed,
    sample,
    split_all,
    trained,
    with_gradients,
)
from wnconvert.scheme import Scheme, WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm


@each
@each_case
def test_values_and_gradients_are_those_of_the_printed_formula(scheme, shape, kept):
    parts, specs = split_all(scheme, [sample(*shape), sample(*shape, seed=1)], kept)
    parts, leaves = with_gradients(perturbed(parts, scheme), trained(scheme))
    cotangents = [sample(*shape, seed=2), sample(*shape, seed=3)]
    composed = compose_all(scheme, parts, specs)
    every = {part: torch.cat([own[part].flatten() for own in parts]) for part in parts[0]}
    expected = [evaluate_formula(scheme, own, spec, every) for own, spec in zip(parts, specs, strict=True)]
    if scheme.name == "centered_weight_norm" and specs[0].fan_in == 1:
        # a single element less its mean is 0, where the printed norm has no derivative; compose has 0 there
        expected = [own["shift"] if "shift" in own else 0.0 * own["c"] for own in parts]
    torch.testing.assert_close(composed, expected)
    torch.testing.assert_close(
        torch.autograd.grad(composed, leaves, cotangents, materialize_grads=True),
        torch.autograd.grad(expected, leaves, cotangents, materialize_grads=True),
    )


SMALL = [((3, 4), (0,)), ((3, 4), ()), ((2, 3, 2), (1,)), ((2, 2, 3), (0, 2))]


def composing(scheme: Scheme, shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[Callable[..., Any], list[Tensor]]:
    """Return a function from the trained parts of two weights to the weights, and those parts."""
    parts, specs = split_all(scheme, [sample(*shape), sample(*shape, seed=1)], kept)
    parts, leaves = with_gradients(perturbed(parts, scheme), trained(scheme))

    def compose(*values: Tensor) -> tuple[Tensor, ...]:
        of = dict(zip(map(id, leaves), values, strict=True))
        given = [{part: of.get(id(tensor), tensor) for part, tensor in own.items()} for own in parts]
        return tuple(compose_all(scheme, given, specs))

    return compose, leaves


@each
@pytest.mark.parametrize(("shape", "kept"), SMALL)
def test_gradcheck(scheme, shape, kept):
    assert torch.autograd.gradcheck(*composing(scheme, shape, kept))


@each
@pytest.mark.parametrize(("shape", "kept"), SMALL)
def test_gradgradcheck(scheme, shape, kept):
    if not scheme.has_second_derivatives(WeightSpec(shape, kept, torch.float64)):
        assert scheme == WeightNorm()  # torch's kernel is wrong, see test_weight_norm.py
        scheme = WeightNorm(written_out=True)
    assert torch.autograd.gradgradcheck(*composing(scheme, shape, kept))


@each
@each_dtype
def test_gradients_reach_every_trained_part(scheme, dtype):
    parts, specs = split_all(scheme, [sample(4, 6, dtype=dtype)])
    parts, leaves = with_gradients(parts, trained(scheme))
    compose_all(scheme, parts, specs)[0].backward(sample(4, 6, dtype=dtype, seed=1))
    for leaf in leaves:
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()
