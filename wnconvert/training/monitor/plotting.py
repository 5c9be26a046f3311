"""Records as a figure; the extra ``[plot]``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from wnconvert.errors import OptionError
from wnconvert.training.monitor.measuring import Record
from wnconvert.training.monitor.writing import write

#: what is drawn, one above the other, and what it is called
PANELS = {"norm": "norm", "effective_lr": "effective learning rate", "angle": "angle moved (degrees)"}
#: with more weights than this a legend would hide the lines
_MOST_NAMES = 12


def figure_of(records: Sequence[Record], path: str | PathLike[str] | None = None) -> Any:
    """Draw `PANELS` over the steps, one line for each weight; see `Monitor.plot`.

    It has a canvas of its own: no window opens, and the figures and the backend of pyplot stay as they are.
    """
    if find_spec("matplotlib") is None:
        raise OptionError("'matplotlib' is not installed; pip install 'wnconvert[plot]'")
    if not records:
        raise OptionError("nothing was recorded; train for at least `every` steps, or call record()")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4 * len(PANELS)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    kind = "png" if path is None else Path(path).suffix[1:].lower()
    if kind not in canvas.get_supported_filetypes():
        raise OptionError(f"{str(path)!r} has no suffix of a picture; give .png, .svg or .pdf")
    by_weight: dict[str, list[Record]] = {}
    for record in records:
        by_weight.setdefault(record.weight, []).append(record)
    axes = figure.subplots(len(PANELS), sharex=True, squeeze=False)[:, 0]
    for axis, (measure, title) in zip(axes, PANELS.items(), strict=True):
        _draw(axis, by_weight, measure)
        axis.set_ylabel(title)
    axes[-1].set_xlabel("step")
    if len(by_weight) <= _MOST_NAMES:
        axes[0].legend(fontsize="small")
    if path is not None:
        picture = io.BytesIO()
        figure.savefig(picture, format=kind)
        write(path, picture.getvalue())
    return figure


def _draw(axis: Any, by_weight: dict[str, list[Record]], measure: str) -> None:
    drawn: list[float] = []
    for name, records in by_weight.items():
        points = [(record.step, value) for record in records if (value := getattr(record, measure)) is not None]
        axis.plot(*zip(*points, strict=True) if points else ((), ()), marker=".", markersize=3, label=f" {name}")
        drawn += [value for _, value in points]
    if not drawn:
        axis.text(0.5, 0.5, "nothing recorded", ha="center", va="center", transform=axis.transAxes)
    elif measure != "angle" and min(drawn) > 0:
        axis.set_yscale("log")
