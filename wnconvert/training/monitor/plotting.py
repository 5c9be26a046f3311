"""Records as a figure; the extra ``[plot]``."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from wnconvert.checkpoint.writing import write
from wnconvert.drawing import blank, kind_of, picture_of
from wnconvert.errors import OptionError
from wnconvert.training.monitor.measuring import Record

#: what is drawn, one above the other, and what it is called
PANELS = {"norm": "norm", "effective_lr": "effective learning rate", "angle": "angle moved (degrees)"}
#: with more weights than this a legend would hide the lines
_MOST_NAMES = 12


def figure_of(records: Sequence[Record], path: str | PathLike[str] | None = None) -> Any:
    """Draw `PANELS` over the steps, one line for each weight; see `Monitor.plot`.

    It has a canvas of its own: no window opens, and the figures and the backend of pyplot stay as they are.
    """
    kind = kind_of("figure.png" if path is None else path)
    if not records:
        raise OptionError("nothing was recorded; train for at least `every` steps, or call record()")
    figure = blank(8, 2.4 * len(PANELS))
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
        write(path, picture_of(figure, kind))
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
