"""What goes on, for those who wait."""

from __future__ import annotations

import sys

import pytest

from wnconvert_cli.render.progress import progress


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading model.pt"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_it_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("reading model.pt"):
        pass
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading model.pt" in shown.err
