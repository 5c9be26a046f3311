"""Records as rows of words: which columns there are, and which of them have room."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wnconvert.training.monitor.measuring import Record

#: the columns, and the field of each
COLUMNS = {
    "step": "step",
    "norm": "norm",
    "min": "norm_min",
    "max": "norm_max",
    "g": "g",
    "angle": "angle",
    "eff. lr": "effective_lr",
    "radial": "radial",
    "tangential": "tangential",
    "grad g": "gradient_g",
    "dead": "dead",
    "exploding": "exploding",
}
#: what goes first where there is no room for all, and what never goes
_LEAST = (("min", "max"), ("grad g",), ("radial",), ("g",), ("tangential",), ("eff. lr",), ("angle",), ("norm",))
#: columns of the screen that a number takes, so that they do not jump from one record to the next
_NUMBER = 8
#: columns of the screen between two columns, and those that a name has at least
GAP, _NAME = 2, 28


def cells(record: Record) -> list[str]:
    """Return the cells of a record below `COLUMNS`."""
    values = [getattr(record, field) for field in COLUMNS.values()]
    return ["" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}" for value in values]


def text_of(records: Sequence[Record]) -> str:
    """Return a table of all columns, however wide it is."""
    rows = [("weight", *COLUMNS), *((record.weight, *cells(record)) for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (tuple(zip(row, widths, strict=True)) for row in rows)
    )


def fitted(records: Sequence[Record], room: int) -> tuple[list[str], list[list[str]]]:
    """Return the headers and the rows of a table of ``room`` columns of the screen, cells at their full width.

    The step is left out, for it is that of all, and so is the ending ``.weight`` where all have it. Columns of nothing
    go, and then those of `_LEAST`, until the rest has room; names that are too long still lose their beginnings.
    """
    columns = dict(zip(COLUMNS, zip(*map(cells, records), strict=True), strict=True))
    shown = {key: each for key, each in columns.items() if key != "step" and any(each)}
    names = _names(records)
    widths = {key: max(len(key), _NUMBER, *map(len, each)) for key, each in shown.items()}
    widths |= {key: max(len(key), *map(len, shown[key])) for key in ("dead", "exploding") if key in shown}
    longest = max(len("weight"), *map(len, names))
    for keys in _LEAST:
        if _left(room, widths) >= min(_NAME, longest):
            break
        for key in keys:
            widths.pop(key, None)
    width = min(max(_left(room, widths), len("weight")), longest)
    headers = ["weight".ljust(width), *(key.rjust(wide) for key, wide in widths.items())]
    rows = [
        [_ending(name, width).ljust(width), *(shown[key][place].rjust(wide) for key, wide in widths.items())]
        for place, name in enumerate(names)
    ]
    return headers, rows


def is_ill(record: Record) -> bool:
    """Whether a weight has dead or exploding rows, or a number that is none."""
    numbers = (record.norm, record.angle, record.tangential)
    return bool(record.dead or record.exploding) or any(x is not None and not math.isfinite(x) for x in numbers)


def _left(room: int, widths: dict[str, int]) -> int:
    return room - sum(width + GAP for width in widths.values())


def _names(records: Sequence[Record]) -> list[str]:
    ending = "" if any(not record.weight.endswith(".weight") for record in records) else ".weight"
    names = [record.weight.removesuffix(ending) for record in records]
    return [name if name.isprintable() else repr(name)[1:-1] for name in names]


def _ending(name: str, width: int) -> str:
    return name if len(name) <= width else ".." + name[len(name) - width + 2 :]
