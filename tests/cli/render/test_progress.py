"""What goes on, for those who wait."""

from __future__ import annotations

import sys

import pytest

from wnconvert_cli.render.progress import advancing, progress


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


def test_how_far_it_is_and_how_long_it_takes_is_shown_to_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with advancing("writing x.pt") as tell:
        assert tell is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with advancing("writing x.pt", quiet=True) as tell:
        assert tell is None
    assert capsys.readouterr() == ("", "")
    with advancing("writing [x].pt") as tell:
        assert tell is not None
        tell(5_000_000, 20_000_000)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(text in shown.err for text in ("writing [x].pt", "25%", "5.0/20.0 MB"))
