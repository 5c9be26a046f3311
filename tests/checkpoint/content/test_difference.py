from __future__ import annotations

import copy
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from torch import nn

from wnconvert.checkpoint.content.difference import bits_equal, difference


def test_bits_are_compared_not_values() -> None:
    zeros = torch.zeros(2)
    assert not bits_equal(zeros, -zeros)
    assert bits_equal(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not bits_equal(zeros, zeros.double())
    assert not bits_equal(zeros, zeros[None])
    assert bits_equal(torch.eye(2).to_sparse(), torch.eye(2).to_sparse())
    assert not bits_equal(torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse())
    assert bits_equal(torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64))


CONTENT = {
    "t": torch.ones(2, 2),
    "n": float("nan"),
    "l": [1, (2, {3})],
    "d": {"x": 1, "y": 2},
    "p": nn.Parameter(torch.ones(1)),
    "dtype": torch.float16,
}


def test_a_deep_copy_has_no_difference() -> None:
    assert difference(CONTENT, copy.deepcopy(CONTENT)) is None


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("t", torch.ones(2, 2).double()),
        ("t", torch.ones(2, 2).t().contiguous().t() * -1),
        ("t", torch.ones(2, 3)[:, :2]),
        ("n", 0.0),
        ("l", [1, (2, {4})]),
        ("l", [1]),
        ("l", (1, (2, {3}))),
        ("d", {"y": 2, "x": 1}),
        ("d", {"x": 1}),
        ("p", nn.Parameter(torch.ones(1), requires_grad=False)),
        ("p", torch.ones(1)),
        ("dtype", torch.float32),
    ],
)
def test_every_difference_is_found(key: str, other: object) -> None:
    found = difference(CONTENT, {**CONTENT, key: other})
    assert found is not None
    assert repr(key) in found


def test_order_and_attributes_count() -> None:
    a, b = OrderedDict(x=1), OrderedDict(x=1)
    a._metadata = {"v": 1}  # type: ignore[attr-defined]
    assert difference(a, b) is not None
    assert difference({"x": 1, "y": 2}, {"y": 2, "x": 1}, ordered=False) is None


def nested(depth: int, inside: object) -> Namespace:
    for _ in range(depth):
        inside = Namespace(x=inside)
    return inside  # type: ignore[return-value]


def test_trees_may_be_deeper_than_pythons_stack() -> None:
    one, same, other = nested(20_000, 1), nested(20_000, 1), nested(20_000, 2)
    assert difference(one, same) is None
    found = difference(one, other)
    assert found is not None
    assert "the attributes of ...['x']" in found
    assert len(found) < 1000
    assert difference(nested(1, 1), nested(1, 2)) == "the attributes of the content['x'] differs"
    for each in (one, same, other):  # or Python's own recursion ends it
        while isinstance(each.x, Namespace):
            each.x, each = None, each.x


def test_keys_of_any_length_are_told_in_short() -> None:
    found = difference({"a" * 100_000: 1}, {"a" * 100_000: 2})
    assert found is not None
    assert len(found) < 200
