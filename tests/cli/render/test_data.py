"""Results for machines."""

from __future__ import annotations

import json as standard
import math

import pytest

from wnconvert_cli.render.data import json


def test_numbers_that_json_has_not_are_texts(capsys: pytest.CaptureFixture[str]) -> None:
    json({"a": [math.inf, -math.inf, math.nan, 0.5], "b": (1, None)})
    assert standard.loads(capsys.readouterr().out) == {"a": ["inf", "-inf", "nan", 0.5], "b": [1, None]}
