"""Moments of several calls together."""

from __future__ import annotations

import pytest
import torch

from wnconvert.training.initialization.moments import Moments, rows


@pytest.mark.parametrize("sizes", [(10,), (1, 9), (0, 3, 7), (4, 4, 0, 2)])
def test_moments_of_pieces_are_those_of_the_whole(sizes):
    values = torch.randn(10, 3) * 1e-3 + 1000
    first, *others = (Moments.of(piece) for piece in values.split(sizes))
    for other in others:
        first = first + other
    whole = values.double()
    assert first.count == 10
    torch.testing.assert_close(first.mean, whole.mean(0))
    torch.testing.assert_close(first.std, whole.std(0, unbiased=False))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen(value):
    values = torch.ones(3, 2)
    assert Moments.of(values).finite
    values[1, 1] = value
    assert not Moments.of(values).finite


def test_rows_are_positions_and_columns_are_units():
    values = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(rows(values, -2), values.transpose(1, 2).reshape(8, 3))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 2] = True
    assert torch.equal(rows(values, -2, mask), values[1, :, 2][None])
