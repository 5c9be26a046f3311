"""Small figures as SVG inside of a page; their colors are those of its style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from wnconvert_cli.lines import printable

#: a histogram: the width of a bar, and the height of the largest
BAR, HIGH = 5, 22
#: the overview: its sizes, and what is left free above and below
WIDE, TALL, MARGIN = 1000.0, 160.0, 10.0


def text(value: object) -> str:
    """Return text as HTML and SVG show it, in elements and in attributes alike."""
    return escape(printable(str(value)), quote=True)


def histogram(distribution: Mapping[str, Any], kind: str) -> str:
    """Return bars for a distribution, with its numbers where the pointer rests; nothing where it has none.

    Args:
        distribution: as ``--json`` tells it, or empty.
        kind: its class in the style sheet.
    """
    bins = distribution.get("bins") or ()
    if not bins:
        return ""
    most = max(bins)
    bars = (
        f'<rect x="{index * BAR}" y="{HIGH - high:.1f}" width="{BAR - 1}" height="{high:.1f}"/>'
        for index, count in enumerate(bins)
        if (high := max(1.0, HIGH * count / most) if count else 0)
    )
    told = f"{distribution['min']:.4g} to {distribution['max']:.4g}, median {distribution['median']:.4g}"
    size = f'width="{BAR * len(bins)}" height="{HIGH}"'
    return f'<svg class="{kind}" {size} role="img" aria-label="{told}"><title>{told}</title>{"".join(bars)}</svg>'


def overview(weights: Sequence[Mapping[str, Any]]) -> str:
    """Return one figure of all weights in their order: the norms of their channels, and their spectral norms."""
    known = [(index, each) for index, each in enumerate(weights) if each["norms"] and each["norms"]["bins"]]
    sizes = [each["norms"][name] for _, each in known for name in ("min", "median", "max")]
    sizes += [each["sigma"] for _, each in known if each["sigma"] is not None]
    positive = [size for size in sizes if size > 0]
    if not positive:
        return ""
    least, most = min(positive), max(positive)
    if most < least * 1.01:
        least, most = least / 2, most * 2
    low, high = math.log10(max(least, most * 1e-6)), math.log10(most)

    def up(size: float) -> float:
        """Return the height of a number, by its logarithm; what is next to nothing lies at the bottom."""
        share = (math.log10(size) - low) / (high - low) if size > 0 else 0.0
        return TALL - MARGIN - max(0.0, share) * (TALL - 2 * MARGIN)

    step = WIDE / len(weights)
    drawn = [_line(0, WIDE, up(10.0**power), "grid") for power in range(math.ceil(low), math.floor(high) + 1)]
    for index, each in known:
        x, norms = (index + 0.5) * step, each["norms"]
        marks = [_upright(x, up(norms["min"]), up(norms["max"]), "range"), _dot(x, up(norms["median"]), "median")]
        marks += [] if each["sigma"] is None else [_dot(x, up(each["sigma"]), "sigma")]
        drawn.append(f"<g><title>{text(each['name'])}</title>{''.join(marks)}</g>")
    label = f"norms of {len(weights)} weights, from {least:.3g} to {most:.3g}"
    view = f'viewBox="0 0 {WIDE:.0f} {TALL:.0f}" preserveAspectRatio="none"'
    return f'<svg class="overview" {view} role="img" aria-label="{label}"><title>{label}</title>{"".join(drawn)}</svg>'


def _line(start: float, end: float, y: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _upright(x: float, start: float, end: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{start:.1f}" y2="{end:.1f}"/>'


def _dot(x: float, y: float, kind: str) -> str:
    """Return a line without length, whose ends are round: a circle would be stretched with the figure."""
    return _upright(x, y, y, f"dot {kind}")
