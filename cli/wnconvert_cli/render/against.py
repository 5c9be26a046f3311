"""How two files differ, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.padding import Padding

from wnconvert_cli.render.flowing import Flowing
from wnconvert_cli.render.measured import INDENT
from wnconvert_cli.render.screen import Rows, console, facts, table_of
from wnconvert_cli.render.words import counted, safe, shaped

if TYPE_CHECKING:
    from wnconvert.checkpoint.measuring.against import Difference, Differences

_COLORS = {"changed": "yellow", "extra": "cyan", "missing": "red"}


def against(other: Path, found: Differences) -> None:
    """Print what differs: in a row or, where rows are wider than the screen, in lines below its name."""
    table = _rows(found)
    with console() as out:
        counts = {status: sum(each.status == status for each in found.differing) for status in _COLORS}
        told = [f"{found.equal} of {counted(found.compared, 'tensor')} equal"]
        told += [f"[{_COLORS[status]}]{count} {status}[/]" for status, count in counts.items() if count]
        out.print(f"\n[bold]against[/] {safe(str(other))}: {', '.join(told)}")
        if not found.differing:
            return
        if Measurement.get(out, out.options, table).maximum + INDENT <= out.width:
            out.print(Padding(table, (0, 0, 0, INDENT)))
            return
        for each in found.differing:
            out.print(Padding(Flowing(f"{safe(each.name)} {_status(each)}"), (0, 0, 0, INDENT)))
            lines = facts()
            for label, text in zip(("shape", "dtype", "norm", "change", "angle", "widest"), _cells(each), strict=True):
                if text:
                    lines.add_row(label, text)
            out.print(Padding(lines, (0, 0, 0, 2 * INDENT)))


def _rows(found: Differences) -> Rows:
    headers = ("shape", "dtype", "norm", "change", "angle", "widest")
    table = table_of("tensor", "", *headers, right=("change", "angle", "widest"))
    for each in found.differing:
        table.add_row(safe(each.name), _status(each), *_cells(each))
    return table


def _status(each: Difference) -> str:
    return f"[{_COLORS[each.status]}]{each.status}[/]"


def _cells(each: Difference) -> tuple[str, ...]:
    """Return shapes, dtypes, norms, and how far the values are apart; what is the same in both files once."""
    shapes = _both(*(None if shape is None else shaped(shape) for shape in each.shapes))
    # one of them has a norm: what has none holds other than finite numbers
    norms = _both(*("not finite" if norm is None else f"{norm:.4g}" for norm in each.norms if any(each.norms)))
    change = "" if each.change is None else f"{each.change:.2%}" if each.change >= 1e-4 else f"{each.change:.1e}"
    return (shapes, _both(*each.dtypes), norms, change, _angle(each.angle), _angle(each.angle_max))


def _both(own: str | None = None, other: str | None = None) -> str:
    """Return what a file has, and behind an arrow from the other, where that had something else."""
    known = dict.fromkeys(text for text in (other, own) if text is not None)
    return " -> ".join(known)


def _angle(degrees: float | None) -> str:
    return "" if degrees is None else f"{degrees:.3g}\N{DEGREE SIGN}"
