from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from wnconvert.checkpoint.content.difference import bits_equal, difference
from wnconvert.checkpoint.content.tree import DEEPEST, find_state_dicts, rebuild, storage_key
from wnconvert.errors import CheckpointError


def test_state_dicts_are_found_through_nested_dicts_and_lists_in_order() -> None:
    tensor = torch.ones(1)
    content = {"a": {"b": {"w": tensor}, "n": 1}, "list": [{"w": tensor}], "c": {"w": tensor, "d": {"w": tensor}}}
    assert [found.path for found in find_state_dicts(content)] == [("a", "b"), ("list", 0), ("c",), ("c", "d")]
    assert find_state_dicts(content)[0].fqn("w") == "a.b.w"


def test_a_dict_in_two_places_and_one_that_holds_itself_are_found_once() -> None:
    inner = {"w": torch.ones(1)}
    content: dict[str, Any] = {"a": inner, "b": inner}
    content["self"] = content
    assert [found.path for found in find_state_dicts(content)] == [("a",)]
    copied = rebuild(content, {id(inner): {"new": 1}})
    assert copied["a"] is copied["b"]
    assert copied["a"] == {"new": 1}
    assert copied["self"] is copied


def test_absurd_nesting_is_refused() -> None:
    content: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(DEEPEST + 1):
        content = {"deeper": content}
    with pytest.raises(CheckpointError, match="nested more than 100 dicts deep"):
        find_state_dicts(content)


def test_rebuild_keeps_types_attributes_and_the_original() -> None:
    state = OrderedDict(w=torch.ones(1), b=2)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    content = {"state": state, "list": [1]}
    copied = rebuild(content, {id(state): {"x": 0, **state}})
    assert type(copied["state"]) is OrderedDict
    assert copied["state"]._metadata == {"": {"version": 1}}
    assert list(copied["state"]) == ["x", "w", "b"]
    assert list(state) == ["w", "b"]
    assert copied["list"] is content["list"]


def test_bits_are_compared_not_values() -> None:
    zeros = torch.zeros(2)
    assert not bits_equal(zeros, -zeros)
    assert bits_equal(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not bits_equal(zeros, zeros.double())
    assert not bits_equal(zeros, zeros[None])
    assert bits_equal(torch.eye(2).to_sparse(), torch.eye(2).to_sparse())
    assert not bits_equal(torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse())
    assert bits_equal(torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64))


def test_storage_key_tells_ties_from_views() -> None:
    base = torch.arange(6.0)
    assert storage_key(base) == storage_key(base.view(6))
    assert storage_key(base) != storage_key(base.view(2, 3))
    assert storage_key(base[:3]) != storage_key(base[3:])
    assert storage_key(torch.empty(0)) != storage_key(torch.empty(0))


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
