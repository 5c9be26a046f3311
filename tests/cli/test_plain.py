"""Whatever names and numbers are in a result, it is JSON that any program can read."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import pytest

from wnconvert_cli.plain import as_json, plain


class Colour(str, Enum):
    red = "RED"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (float("nan"), "nan"),
        ([float("-inf"), 1.5], ["-inf", 1.5]),
        ({"a": (1, None, True)}, {"a": [1, None, True]}),
        (Path("a/b"), "a/b"),
        (Colour.red, "RED"),
        ("caf\udce9.pt", "caf\\udce9.pt"),
        ({"\ud800": "\x00\x1b\U0001f600\u2028"}, {"\\ud800": "\x00\x1b\U0001f600\u2028"}),
        ({3: "number"}, {"3": "number"}),
    ],
)
def test_what_json_has_not_is_told_in_another_way(data: object, expected: object) -> None:
    assert plain(data) == expected
    text = as_json(data)
    assert text.isascii()
    assert json.loads(text, parse_constant=pytest.fail) == expected
    text.encode().decode()  # no lone surrogate comes back
    json.dumps(json.loads(text), ensure_ascii=False).encode()
