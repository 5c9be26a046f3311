"""The weights of a file, one a row, with small distributions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.padding import Padding

from wnconvert_cli.render.flowing import Flowing
from wnconvert_cli.render.screen import Rows, console, facts, table_of
from wnconvert_cli.render.words import safe, shaped

if TYPE_CHECKING:
    from wnconvert.checkpoint.measuring.statistics import Distribution, WeightStatistics

#: columns before each line
INDENT = 2
#: bars from none to most, and what stands for them where the terminal has no such characters
BLOCKS, PLAIN = " \N{LOWER ONE EIGHTH BLOCK}\u2582\u2583\u2584\u2585\u2586\u2587\N{FULL BLOCK}", " .:-=+*#@"


def distributions(weights: Sequence[WeightStatistics]) -> None:
    """Print the numbers of each weight: in a row or, where rows are wider than the screen, in lines below its name."""
    if not weights:
        return
    bars = bars_of(sys.stdout.encoding)
    table = _rows(weights, bars)
    with console() as out:
        if Measurement.get(out, out.options, table).maximum + INDENT <= out.width:
            out.print(Padding(table, (1, 0, 0, INDENT)))
            return
        for each in weights:
            out.print()
            out.print(Padding(Flowing(f"{safe(each.name)} {_told(each)}"), (0, 0, 0, INDENT)))
            out.print(Padding(_lines(each, bars), (0, 0, 0, 2 * INDENT)))


def _rows(weights: Sequence[WeightStatistics], bars: str) -> Rows:
    """Return a row for each weight; a column that all would leave empty is left out."""
    has_g = any(each.g for each in weights)
    numbers = ("min", "median", "max", "median g", "spectral")
    middle = ("norms", "min", "median", "max", *(("g", "median g") if has_g else ()), "spectral")
    table = table_of("weight", "shape", "scheme", *middle, "odd channels", right=numbers)
    for each in weights:
        first = (safe(each.name), shaped(each.shape), f"[cyan]{safe(each.scheme or '')}[/]")
        if each.problem:
            table.add_row(*first, *("" for _ in middle), f"[yellow]{safe(each.problem)}[/]")
            continue
        norms = each.norms
        own = [_drawn(norms, bars), *(_number(getattr(norms, name, None)) for name in ("min", "median", "max"))]
        g = [_drawn(each.g, bars), _number(getattr(each.g, "median", None))] if has_g else []
        table.add_row(*first, *own, *g, _number(each.sigma), _odd(each))
    return table


def _told(each: WeightStatistics) -> str:
    return f"{shaped(each.shape)} [cyan]{safe(each.scheme or '')}[/]"


def _lines(each: WeightStatistics, bars: str) -> Rows:
    table = facts()
    if each.problem:
        table.add_row("none", f"[yellow]{safe(each.problem)}[/]")
    for label, numbers in (("norms", each.norms), ("g", each.g)):
        if numbers is not None and numbers.bins:
            table.add_row(label, f"{_drawn(numbers, bars)} {_number(numbers.min)} to {_number(numbers.max)}")
    if each.sigma is not None:
        table.add_row("spectral", _number(each.sigma))
    if odd := _odd(each):
        table.add_row("odd", odd)
    return table


def bars_of(encoding: str | None) -> str:
    """Return the characters of bars that an encoding has."""
    try:
        BLOCKS.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return BLOCKS


def spark(bins: Sequence[int], bars: str) -> str:
    """Return a histogram in a line: what is not empty is seen, however small it is beside the largest."""
    most = max(bins, default=0)
    return "".join(bars[-(-count * (len(bars) - 1) // most)] if most else bars[0] for count in bins)


def _drawn(each: Distribution | None, bars: str) -> str:
    return "" if each is None or not each.bins else f"[cyan]{safe(spark(each.bins, bars))}[/]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _odd(each: WeightStatistics) -> str:
    non_finite = each.norms.non_finite if each.norms else 0
    kinds = (("dead", each.dead, "yellow"), ("duplicate", each.duplicate, "yellow"), ("non-finite", non_finite, "red"))
    return ", ".join(f"[{color}]{count} {kind}[/]" for kind, count, color in kinds if count)
