"""Where the figure of a file goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert.errors import NothingToConvertError, OptionError, OutputError
from wnconvert_cli.batch import Input
from wnconvert_cli.figures.drawing import Drawing, place_of


def test_what_cannot_be_written_is_told_before_any_work(folder: Path) -> None:
    (folder / "m.pt").write_bytes(b"m")
    (folder / "there.html").write_bytes(b"old")
    one = [Input(Path("m.pt"))]
    with pytest.raises(OptionError, match="--html tells of one file, and 2 are given"):
        place_of("--html", Path("x.html"), [*one, Input(Path("n.pt"))], force=False)
    with pytest.raises(OptionError, match="--html is '-'"):
        place_of("--html", Path("-"), one, force=False)
    with pytest.raises(OutputError, match=r"'there\.html' exists; give --force"):
        place_of("--html", Path("there.html"), one, force=False)
    with pytest.raises(OutputError, match="is the input itself"):
        place_of("--html", Path("m.pt"), one, force=True)
    with pytest.raises(OutputError, match="in no existing folder"):
        place_of("--html", Path("no/x.html"), one, force=True)
    place_of("--html", Path("there.html"), one, force=True)
    assert (folder / "there.html").read_bytes() == b"old"


def test_a_figure_is_wanted_where_it_is_asked_for(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert Drawing.of(None, [], force=False) is None
    drawing = Drawing.of(Path("x.svg"), [Input(Path("m.pt"))], force=False)
    assert drawing == (Path("x.svg"), "svg", False)
    with pytest.raises(NothingToConvertError, match=r"'m\.pt' holds no weight that could be drawn"):
        drawing.write(Path("m.pt"), [])
    assert not [*folder.iterdir()]
