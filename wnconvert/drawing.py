"""Figures on canvases of their own: no window opens, and those of pyplot, and its backend, stay as they are.

The extra ``[plot]``; matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from wnconvert.errors import OptionError


def kind_of(path: str | PathLike[str]) -> str:
    """Return the kind of picture that the suffix of a path says, before anything is drawn.

    Raises:
        OptionError: matplotlib is not installed, or the suffix says none.
    """
    if find_spec("matplotlib") is None:
        raise OptionError("'matplotlib' is not installed; pip install 'wnconvert[plot]'")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kind = Path(path).suffix[1:].lower()
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise OptionError(f"{str(path)!r} has no suffix of a picture; give .png, .svg or .pdf")
    return kind


def blank(width: float, height: float) -> Any:
    """Return an empty figure of so many inches.

    Raises:
        OptionError: matplotlib is not installed.
    """
    kind_of("figure.png")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture_of(figure: Any, kind: str) -> bytes:
    """Return a figure as a file of that kind; the same bytes for the same figure."""
    from matplotlib import rc_context

    content = io.BytesIO()
    # else the file says when it was made, and its names are drawn at random
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "wnconvert"}):
        figure.savefig(content, format=kind, metadata=undated)
    return content.getvalue()
