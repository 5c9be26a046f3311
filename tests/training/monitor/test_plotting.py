"""Records as a figure."""

from __future__ import annotations

import sys

import pytest

from wnconvert import drawing
from wnconvert.errors import OptionError, OutputError
from wnconvert.training.monitor.measuring import Record
from wnconvert.training.monitor.plotting import PANELS, figure_of

pytest.importorskip("matplotlib")

RECORDS = [
    Record(step, name, "weight_norm", norm=size * step, effective_lr=0.1 / step, angle=float(step))
    for step in (1, 2, 3)
    for name, size in (("0.weight", 1.0), ("_first.weight", 2.0))
]


def test_there_is_a_line_for_each_weight_and_measure():
    figure = figure_of(RECORDS)
    assert [axis.get_ylabel() for axis in figure.axes] == list(PANELS.values())
    norms = figure.axes[0]
    assert [line.get_ydata().tolist() for line in norms.lines] == [[1, 2, 3], [2, 4, 6]]
    assert [text.get_text().strip() for text in norms.get_legend().get_texts()] == ["0.weight", "_first.weight"]
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "log", "linear"]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_format(tmp_path, suffix, start):
    path = tmp_path / f"run{suffix}"
    figure_of(RECORDS, path)
    assert path.read_bytes().startswith(start)


def test_what_was_not_recorded_is_not_drawn():
    figure = figure_of([Record(1, "a", "unit_norm", norm=0.0)])
    assert [len(axis.texts) for axis in figure.axes] == [0, 1, 1]
    assert figure.axes[0].get_yscale() == "linear"


def test_numbers_that_are_none_are_gaps():
    figure = figure_of([*RECORDS, Record(4, "0.weight", "weight_norm", norm=float("nan"))])
    figure.canvas.draw()
    assert len(figure.axes[0].lines[0].get_xdata()) == 4


def test_many_weights_have_no_legend():
    assert figure_of([Record(1, str(name), "", norm=1.0) for name in range(40)]).axes[0].get_legend() is None


def test_bad_input_is_named(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="nothing was recorded"):
        figure_of([])
    for name in ("run", "run.doc"):
        with pytest.raises(OptionError, match=f"{name}' has no suffix of a picture; give .png"):
            figure_of(RECORDS, tmp_path / name)
    with pytest.raises(OutputError, match="in no existing folder"):
        figure_of(RECORDS, tmp_path / "none" / "run.png")
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"'matplotlib' is not installed; pip install 'wnconvert\[plot\]'"):
        figure_of(RECORDS)
