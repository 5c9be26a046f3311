"""What goes on, for those who wait."""

from __future__ import annotations

import re
import sys

import pytest
from rich.cells import cell_len

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


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_it_is_one_line_with_all_figures_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with advancing("writing and verifying generator_00001.folded.pt") as tell:
        assert tell is not None
        tell(555_500_000_000, 666_600_000_000)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err.replace("\r", "\n")).splitlines()
    assert any(line.startswith("writing and") and "83% 555.5/666.6 GB" in line for line in lines)
    assert all(cell_len(line) <= width for line in lines)
    assert any("generator_00001.folded.pt" in line for line in lines) == (width >= 80)
