"""What goes on, for those who wait."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from wnconvert_cli.render.words import safe

#: columns that " 100% 999.9/999.9 GB 0:00:00" takes
FIGURES = 28
#: columns that a bar has at most, and that it is not worth being shown in
WIDEST, LEAST = 20, 8


def progress(text: str, *, quiet: bool = False) -> AbstractContextManager[Any]:
    """Show on stderr what goes on, if somebody looks; it leaves no trace."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status(f"[dim]{safe(text)}[/]", spinner="dots")


@contextmanager
def advancing(text: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show on stderr what goes on and how far it is: as a percentage, in bytes, and with the time that is left.

    Gives what is to be called with the bytes that are done, and all of them; None if nobody looks.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    console = Console(stderr=True)
    room = console.width - FIGURES
    bars = [BarColumn(min(WIDEST, room - cell_len(text) - 1))] if room - cell_len(text) > LEAST else []
    columns = (TextColumn("[dim]{task.description}[/]"), *bars, TaskProgressColumn(), DownloadColumn())
    if cell_len(text) > room:
        text = f"{set_cell_size(text, max(room - 1, 0)).rstrip()}\N{HORIZONTAL ELLIPSIS}"
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(safe(text), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
