"""Where results appear, and the tables that they appear in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from wnconvert_cli.lines import tell, telling
from wnconvert_cli.render.flowing import Flowing

#: when nobody looks at a terminal, lines may be as long as they are.
UNLIMITED = 10_000
#: more rows than this are not shown one by one.
MOST_ROWS = 20


class Screen(Console):
    """A console on which names break where names may, see `Flowing`."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print markup and tables."""
        super().print(*(Flowing(each) if isinstance(each, str) else each for each in objects), **how)


class Rows(Table):
    """A table in whose cells names break where names may."""

    def add_row(self, *cells: Any, **how: Any) -> None:
        """Add a row of markup."""
        super().add_row(*(Flowing(cell) if isinstance(cell, str) else cell for cell in cells), **how)


@contextmanager
def console() -> Iterator[Screen]:
    """Give a console whose output goes to stdout, without spaces at the ends of lines."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    out = Screen(highlight=False, soft_wrap=not narrow, width=None if narrow else UNLIMITED)
    out.begin_capture()
    yield out
    with telling():  # rich writes nothing to stdout then, but that may fail, too
        captured = out.end_capture()
    encoding = sys.stdout.encoding or "utf-8"
    lines = [line.rstrip().encode(encoding, "replace").decode(encoding) for line in captured.splitlines()]
    tell("\n".join(lines))


def facts() -> Rows:
    """Return a table of labels and values."""
    table = Rows(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def table_of(*headers: str, right: Sequence[str] = ()) -> Rows:
    """Return a table with headers.

    Args:
        headers: one for each column.
        right: those of columns of numbers.
    """
    table = Rows(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for header in headers:
        table.add_column(header, overflow="fold", justify="right" if header in right else "left")
    return table
