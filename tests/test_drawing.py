"""Figures on canvases of their own."""

from __future__ import annotations

import sys

import pytest

from wnconvert import drawing
from wnconvert.drawing import blank, kind_of, picture_of
from wnconvert.errors import OptionError

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_same_figure_has_the_same_bytes(kind, start):
    def drawn():
        figure = blank(3, 2)
        figure.subplots().plot([1, 2], [3, 4])
        return picture_of(figure, kind)

    assert drawn().startswith(start)
    assert drawn() == drawn()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_suffix_tells_the_kind():
    assert kind_of("a/b.SVG") == "svg"
    for name in ("b", "b.doc"):
        with pytest.raises(OptionError, match=f"'{name}' has no suffix of a picture; give .png"):
            kind_of(name)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"'matplotlib' is not installed; pip install 'wnconvert\[plot\]'"):
        blank(1, 1)
