"""The schemes and layouts, as they are shown."""

from __future__ import annotations

import pytest

from tests.cli.conftest import run
from wnconvert.checkpoint.layout import LAYOUTS
from wnconvert.scheme import SCHEMES


def test_every_scheme_and_layout_is_listed() -> None:
    assert all(name in run("schemes").out for name in SCHEMES)
    assert all(name in run("layouts").out for name in LAYOUTS)


def test_one_scheme_is_shown_with_its_formula_and_options() -> None:
    shown = run("schemes", "weight_norm").out
    assert shown.startswith("weight_norm\n")
    assert "p=2" in shown
    assert SCHEMES.get("weight_norm").formula in shown


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("command", ["schemes", "layouts"])
def test_narrow_terminals_hold_the_lines(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, run(command).out.splitlines())) <= width
