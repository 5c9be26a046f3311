from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch

from wnconvert.checkpoint.content.tree import DEEPEST, StateDict, find_state_dicts, rebuild, storage_key
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


def test_storage_key_tells_ties_from_views() -> None:
    base = torch.arange(6.0)
    assert storage_key(base) == storage_key(base.view(6))
    assert storage_key(base) != storage_key(base.view(2, 3))
    assert storage_key(base[:3]) != storage_key(base[3:])
    assert storage_key(torch.empty(0)) != storage_key(torch.empty(0))


class Unwalked(list[str]):
    def __iter__(self) -> Any:
        raise AssertionError("names were walked through")


def test_names_under_a_prefix_are_found_without_a_walk() -> None:
    found = StateDict((), {name: torch.ones(1) for name in ("a.b", "a.a", "b.a", "a")})
    assert [list(found.under(prefix)) for prefix in ("a.", "b.", "c.", "")] == [
        ["a.a", "a.b"],
        ["b.a"],
        [],
        ["a", "a.a", "a.b", "b.a"],
    ]
    vars(found)["_sorted"] = Unwalked(sorted(found.entries))
    assert list(found.under("b.")) == ["b.a"]
