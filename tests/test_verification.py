"""Bits are compared, and not values."""

from __future__ import annotations

import pytest
import torch

from wnconvert.verification import change, is_dense, same_bits


def test_bits_are_compared_and_not_values() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.zeros(1)
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.double())
    assert not same_bits(zero, torch.zeros(1, 1))
    assert same_bits(torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64))
    assert same_bits(torch.arange(6.0).reshape(2, 3).t(), torch.arange(6.0).reshape(2, 3).t().contiguous())


def test_a_change_is_zero_only_where_all_bits_are_equal() -> None:
    weight = torch.tensor([1.0, -0.0, 2.0])
    assert change(weight, weight.clone()) == 0
    assert change(weight, torch.tensor([1.0, -0.0, 2.5])) == 0.5
    assert 0 < change(weight, weight.abs()) < 1e-300
    assert change(weight, weight / 0) == float("inf")


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.ones(3, 4), True),
        (torch.ones(3, 4).t(), True),
        (torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last), True),
        (torch.ones(3, 1).as_strided((3, 1), (1, 7)), True),
        (torch.ones(()), True),
        (torch.ones(3, 4)[:, :2], False),
        (torch.ones(3, 1).expand(3, 4), False),
        (torch.ones(6)[::2], False),
    ],
)
def test_memory_is_filled_in_whichever_order_of_dims(tensor, dense) -> None:
    assert is_dense(tensor) is dense
