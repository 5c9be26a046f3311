"""Names, numbers and texts as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from wnconvert_cli.lines import printable

#: between the sizes of a shape
TIMES = "\N{MULTIPLICATION SIGN}"


def safe(text: str) -> str:
    """Return text that is shown as it is, neither markup nor control codes."""
    return escape(printable(text))


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return ``3 weights``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def some(names: Sequence[str]) -> str:
    """Return the first of some names, in parentheses, and how many more there are."""
    if not names:
        return ""
    more = f", ... {len(names) - 3} more" if len(names) > 3 else ""
    return f" [dim]({', '.join(map(safe, names[:3]))}{more})[/]"


def shaped(shape: tuple[int, ...] | None) -> str:
    """Return ``3x16``, with a real sign."""
    return "" if shape is None else f"[dim]{TIMES.join(map(str, shape))}[/]"


def sized(size: float) -> str:
    """Return a number of bytes in the unit in which it is short."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())
