"""One figure for a study: how it learned, what the learning rate did, and what the settings did."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from intervals import of_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from report import Results

#: Okabe and Ito's colours, which people with any kind of colour vision tell apart
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(results: Results, path: Path) -> None:
    """Draw the figure of a study."""
    several = len(results.study.settings) > 1
    figure, axes = plt.subplots(1, 2 + several, figsize=(5.2 * (2 + several), 4.2), layout="constrained")
    for index, variant in enumerate(results.study.variants):
        style = {"color": COLOURS[index], "label": variant, "marker": "osD^vXP"[index], "markersize": 4}
        _line(axes[0], *_learning(results, variant), style)
        _line(axes[1], *_rates(results, variant), style)
        if several:
            _line(axes[2], *_settings(results, variant, index), {**style, "linestyle": ""})
    axes[0].set(xlabel="steps", ylabel=results.study.quality, title="at the chosen learning rate")
    axes[0].axhline(results.study.target, color="grey", linewidth=0.8, linestyle=":")
    axes[1].set(xlabel="learning rate", xscale="log", title="final quality")
    if several:
        names = [", ".join(f"{k} {v}" for k, v in each.items()) or "default" for each in results.study.settings]
        axes[2].set_xticks(range(len(names)), names)
        axes[2].set(title="final quality, each at its learning rate")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), frameon=False)
    for each in axes:
        each.grid(alpha=0.25)
    figure.savefig(path, dpi=80)
    plt.close(figure)


Points = tuple[list[float], list[list[float]]]


def _learning(results: Results, variant: str) -> Points:
    curves = [dict(run["curve"]) for run in results.runs(variant)]
    steps = sorted(set.intersection(*map(set, curves)))
    return steps, [[curve[step] for curve in curves] for step in steps]


def _rates(results: Results, variant: str) -> Points:
    runs = results.runs(variant, every_rate=True)
    rates = sorted({run["rate"] for run in runs})
    return rates, [[run["quality"] for run in runs if run["rate"] == rate] for rate in rates]


def _settings(results: Results, variant: str, index: int) -> Points:
    count, many = len(results.study.settings), len(results.study.variants)
    places = [setting + 0.6 * (index / max(many - 1, 1) - 0.5) for setting in range(count)]
    return places, [[run["quality"] for run in results.runs(variant, setting)] for setting in range(count)]


def _line(axes: Axes, x: list[float], values: list[list[float]], style: dict[str, object]) -> None:
    intervals = [of_mean(each) for each in values]
    means = [each.mean for each in intervals]
    if style.get("linestyle") == "":
        half = [each.high - each.mean for each in intervals]
        axes.errorbar(x, means, half, elinewidth=1, capsize=2, **style)
        return
    axes.plot(x, means, linewidth=1.4, **style)
    low, high = ([getattr(each, side) for each in intervals] for side in ("low", "high"))
    if all(map(math.isfinite, low)):
        axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
