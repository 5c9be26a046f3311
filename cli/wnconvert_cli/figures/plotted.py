"""The weights of a file as one figure: a panel a measure, one above the other, and a place on the x-axis a weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from wnconvert.drawing import blank, picture_of
from wnconvert_cli.lines import printable

if TYPE_CHECKING:
    from wnconvert.checkpoint.measuring.statistics import Distribution, WeightStatistics

#: with more weights than this, distributions are lines, and no place has a name
MOST_NAMES = 60
#: characters of a name that are shown: its end, which tells more
LONGEST = 40
#: inches: of the figure at least and at most, of a weight, and of a panel
NARROWEST, WIDEST, PER_WEIGHT, HEIGHT = 6.0, 24.0, 0.35, 2.2
BLUE, RED, GREEN = "#2f6db3", "#c0392b", "#3a8f5c"


def picture(title: str, weights: Sequence[WeightStatistics], kind: str) -> bytes:
    """Return a figure of the weights of a file, as a file of that kind.

    Raises:
        OptionError: matplotlib is not installed.
    """
    return picture_of(figure_of(title, weights), kind)


def figure_of(title: str, weights: Sequence[WeightStatistics]) -> Any:
    """Draw norms, magnitudes, spectral norms, and dead and duplicate channels; what no weight has is left out."""
    panels: list[tuple[str, Callable[[Any], None]]] = [
        ("norm of channels", lambda axis: _distributions(axis, [each.norms for each in weights], BLUE))
    ]
    if any(each.g for each in weights):
        panels.append(("magnitude (g)", lambda axis: _distributions(axis, [each.g for each in weights], GREEN)))
    panels += [
        ("spectral norm", lambda axis: _points(axis, [each.sigma for each in weights])),
        ("odd channels", lambda axis: _counts(axis, weights)),
    ]
    width = min(max(NARROWEST, 2 + PER_WEIGHT * len(weights)), WIDEST)
    figure = blank(width, HEIGHT * len(panels) + 1)
    figure.suptitle(_plain(title), fontsize="medium")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (label, draw) in zip(axes, panels, strict=True):
        axis.set_ylabel(label, fontsize="small")
        axis.tick_params(labelsize="small")
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        draw(axis)
    named = len(weights) <= MOST_NAMES
    axes[-1].set_xlim(-0.7, len(weights) - 0.3)
    if named:
        axes[-1].set_xticks(range(len(weights)), [_short(each.name) for each in weights], rotation=90, fontsize="small")
    else:
        axes[-1].set_xlabel(f"{len(weights)} weights, in the order of the file", fontsize="small")
    return figure


def _distributions(axis: Any, drawn: Sequence[Distribution | None], color: str) -> None:
    """Draw each as the way from the least to the largest, half of it thick, with the median; few as shapes, too."""
    known = [(place, each) for place, each in enumerate(drawn) if each is not None and each.bins]
    if not known:
        _say(axis, "nothing finite")
        return
    if len(drawn) <= MOST_NAMES:
        for place, each in known:
            _shape(axis, place, each, color)
    places = [place for place, _ in known]
    axis.vlines(places, [each.min for _, each in known], [each.max for _, each in known], color=color, linewidth=0.8)
    axis.vlines(places, [each.lower for _, each in known], [each.upper for _, each in known], color=color, linewidth=3)
    axis.plot(places, [each.median for _, each in known], "o", color="white", markeredgecolor=color, markersize=3.5)
    _scale(axis, [number for _, each in known for number in (each.min, each.max) if number is not None])


def _shape(axis: Any, place: int, each: Distribution, color: str) -> None:
    """Draw a histogram upright, to both sides of its place."""
    assert each.min is not None
    assert each.max is not None
    if each.min == each.max:
        return
    step = (each.max - each.min) / len(each.bins)
    heights = [each.min + step * index for index in range(len(each.bins) + 1)]
    widths = [0.42 * count / max(each.bins) for count in each.bins]
    widths = [*widths, widths[-1]]
    left, right = ([place + sign * width for width in widths] for sign in (-1, 1))
    axis.fill_betweenx(heights, left, right, step="post", color=color, alpha=0.25, linewidth=0)


def _points(axis: Any, values: Sequence[float | None]) -> None:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if not known:
        _say(axis, "nothing finite")
        return
    axis.plot(*zip(*known, strict=True), "o", color=BLUE, markersize=4)
    _scale(axis, [value for _, value in known])


def _scale(axis: Any, values: Sequence[float]) -> None:
    """Show numbers of several magnitudes by their logarithms; those near zero, next to the others, stand there."""
    sizes = sorted(abs(value) for value in values if value)
    if sizes and sizes[-1] > 30 * sizes[0]:
        axis.set_yscale("symlog", linthresh=max(sizes[0], sizes[-1] * 1e-4))


def _counts(axis: Any, weights: Sequence[WeightStatistics]) -> None:
    places, bottom = range(len(weights)), [0] * len(weights)
    kinds = {
        "dead": ([each.dead for each in weights], RED),
        "duplicate": ([each.duplicate for each in weights], "#d9a521"),
        "non-finite": ([each.norms.non_finite if each.norms else 0 for each in weights], "black"),
    }
    for kind, (counts, color) in kinds.items():
        if any(counts):
            axis.bar(places, counts, bottom=bottom, color=color, width=0.7, label=f"{kind} ({sum(counts)})")
            bottom = [below + count for below, count in zip(bottom, counts, strict=True)]
    if any(bottom):
        axis.legend(fontsize="small")
    else:
        axis.set_ylim(0, 1)
        _say(axis, "none is dead, duplicate or non-finite")


def _say(axis: Any, text: str) -> None:
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, fontsize="small", color="0.4")


def _short(name: str) -> str:
    return _plain(name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}")


def _plain(text: str) -> str:
    """Return text that matplotlib shows as it is: a dollar would begin mathematics."""
    return printable(text).replace("$", r"\$")
