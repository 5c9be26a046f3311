"""Where the figure of a file goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert.errors import NothingToConvertError, OptionError, OutputError
from wnconvert_cli.batch import Input
from wnconvert_cli.figures.outputs import Outputs, check_place
from wnconvert_cli.groups import Views


def test_what_cannot_be_written_is_told_before_any_work(folder: Path) -> None:
    (folder / "m.pt").write_bytes(b"m")
    (folder / "there.html").write_bytes(b"old")
    one = [Input(Path("m.pt"))]
    with pytest.raises(OptionError, match="--html tells of one file, and 2 are given"):
        check_place("--html", Path("x.html"), [*one, Input(Path("n.pt"))], force=False)
    with pytest.raises(OptionError, match="--html is '-'"):
        check_place("--html", Path("-"), one, force=False)
    with pytest.raises(OutputError, match=r"'there\.html' exists; give --force"):
        check_place("--html", Path("there.html"), one, force=False)
    with pytest.raises(OutputError, match="is the input itself"):
        check_place("--html", Path("m.pt"), one, force=True)
    with pytest.raises(OutputError, match="in no existing folder"):
        check_place("--html", Path("no/x.html"), one, force=True)
    check_place("--html", Path("there.html"), one, force=True)
    assert (folder / "there.html").read_bytes() == b"old"


def test_what_is_asked_for_is_written(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    one = [Input(Path("m.pt"))]
    assert Outputs.of(Views(), [*one, *one]) == Outputs(None, "", None, False)
    outputs = Outputs.of(Views(plot=Path("x.svg"), html=Path("x.html")), one)
    assert outputs == (Path("x.svg"), "svg", Path("x.html"), False)
    with pytest.raises(OptionError, match=r"--plot and --html are both 'x\.svg'; give two names"):
        Outputs.of(Views(plot=Path("x.svg"), html=Path("x.svg")), one)
    with pytest.raises(NothingToConvertError, match=r"'m\.pt' holds no weight that could be drawn"):
        outputs.write({"input": "m.pt"}, [])
    assert not [*folder.iterdir()]


def test_what_a_file_is_compared_with_is_not_replaced(folder: Path) -> None:
    (folder / "b.pt").write_bytes(b"b")
    one = [Input(Path("m.pt"))]
    for views in (
        Views(html=Path("b.pt"), against=Path("b.pt"), force=True),
        Views(html=folder / "b.pt", against=Path("b.pt"), force=True),
    ):
        with pytest.raises(OutputError, match="is the input itself"):
            Outputs.of(views, one)
    (folder / "inner").mkdir()
    with pytest.raises(OptionError, match="give two names"):
        Outputs.of(Views(plot=Path("x.svg"), html=Path("inner/../x.svg")), one)
