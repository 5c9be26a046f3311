"""What holds tensors by name alone says what it cannot hold."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import defer
from wnconvert.checkpoint.storage.flat import named_tensors
from wnconvert.errors import OutputError

BASE = torch.arange(12.0)


def twice(tensor: Tensor) -> Tensor:
    return defer(lambda: tensor * 2, tensor, [tensor])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([BASE], "it is a list, not a dict of tensors"),
        ({1: BASE}, "the key 1 is no text"),
        ({"a": {"b": BASE}}, "'a' is a nested dict, not a tensor; choose one state dict (--only)"),
        ({"a": 3}, "'a' is a int, not a tensor"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is sparse, quantized or without data"),
        ({"a": torch.ones(2, device="meta")}, "'a' is sparse, quantized or without data"),
        ({"a": BASE.half()}, "'a' is not wanted"),
        ({"a": BASE[:6], "b": torch.ones(2), "c": BASE[5:]}, "'a' and 'c' share memory"),
    ],
)
def test_what_it_cannot_hold_is_named(content: object, reason: str) -> None:
    def why_not(name: str, tensor: Tensor) -> str | None:
        return "is not wanted" if tensor.dtype is torch.float16 else None

    with pytest.raises(OutputError, match=f"^box cannot hold this content: {re.escape(reason)}$"):
        named_tensors(content, "box", why_not)


def test_parts_of_one_memory_that_do_not_overlap_are_held() -> None:
    content = {"a": BASE[:6], "b": BASE[6:], "c": twice(BASE), "d": twice(BASE)}
    assert list(named_tensors(content, "box", lambda name, tensor: None)) == list(content)


def test_what_is_deferred_and_tied_shares_memory() -> None:
    made = twice(BASE)
    with pytest.raises(OutputError, match="'a' and 'b' share memory"):
        named_tensors({"a": made, "b": made.detach()}, "box", lambda name, tensor: None)
