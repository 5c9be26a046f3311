"""The last records of a monitor on the screen, as they come. Here alone the library has to do with rich."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from rich.console import Console as Console, ConsoleOptions
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.text import Text

from wnconvert.training.monitor.measuring import Record
from wnconvert.training.monitor.tables import GAP, fitted, is_ill

#: weights that are shown at most
MOST = 20
#: lines of a terminal that are left to what the loop prints
_LEFT = 6
#: seconds from one drawing to the next, at least: a monitor may record each step
_PAUSE = 0.25


class View(JupyterMixin):
    """What is shown: a line that says the step and what is ill, and a table of the weights that have room.

    Attributes:
        step: how many steps were taken.
        records: the last record of each weight.
    """

    def __init__(self, step: int, records: Sequence[Record]) -> None:
        self.step, self.records = step, records

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Render; of too many weights those that are ill come before the others, all in the order of the model."""
        if not self.records:
            yield Text(f"step {self.step}: nothing recorded yet")
            return
        most = min(MOST, max(options.size.height - _LEFT, 1)) if console.is_terminal else MOST
        ill = [is_ill(record) for record in self.records]
        first = sorted(range(len(ill)), key=lambda place: not ill[place])[:most]
        shown = [self.records[place] for place in sorted(first)]
        headers, rows = fitted(shown, options.max_width)
        lines = [(self._title(len(shown)), ""), ((" " * GAP).join(headers), "dim")]
        lines += [
            ((" " * GAP).join(row), "bold red" if is_ill(each) else "") for each, row in zip(shown, rows, strict=True)
        ]
        for line, style in lines:
            sayable = line.encode(console.encoding, "replace").decode(console.encoding)
            yield Text(sayable, style, no_wrap=True, overflow="crop")

    def _title(self, shown: int) -> str:
        count = len(self.records)
        of = f"{count} weight{'s' * (count > 1)}" if shown == count else f"{shown} of {count} weights"
        dead, exploding = (sum(getattr(each, name) or 0 for each in self.records) for name in ("dead", "exploding"))
        ill = [f"{number} {name}" for number, name in ((dead, "dead"), (exploding, "exploding")) if number]
        return f"step {self.step}: {', '.join([of, *ill])}"


class Screen(Console):
    """A console that says nothing more when nobody listens any more; rich would end the program."""

    def on_broken_pipe(self) -> None:
        """Be quiet from now on."""
        self.quiet = True


class LiveTable:
    """Shows what a monitor sees, on stderr: drawn anew with each record in a terminal and in a notebook.

    Elsewhere it is shown once, at the end and without control codes. What the loop prints in the meantime comes above
    it. Of several processes the first one shows it.

    Args:
        console: where to, instead.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _of_stderr()
        self._live: Live | None = None
        self._cell: Any = None
        self._begun = False
        self._drawn = float("-inf")

    def start(self, view: View) -> None:
        """Begin to show it, if it is not shown already."""
        if self._begun or not _is_first():
            return
        self._begun = True
        if self._console.is_jupyter:  # where rich's own wants ipywidgets
            from IPython.display import display

            self._cell = display(view, display_id=True)
        elif self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(view, console=self._console, auto_refresh=False)
            self._live.start(refresh=True)

    def update(self, view: View, *, last: bool = False) -> None:
        """Show another view, unless one was drawn right now."""
        now = time.monotonic()
        if not last and now - self._drawn < _PAUSE:
            return
        self._drawn = now
        if self._live is not None:
            self._live.update(view, refresh=not last)  # which stopping does
        elif self._cell is not None:
            self._cell.update(view)

    def stop(self, view: View) -> None:
        """Leave the last view where it is."""
        self.update(view, last=True)
        if self._live is not None:
            self._live.stop()
        elif self._begun and self._cell is None:
            self._console.print(view)
        self._live, self._cell, self._begun = None, None, False


@cache
def _of_stderr() -> Console:
    """Return one console for all, so that two tables stand one above the other."""
    return Screen(stderr=True, highlight=False)


def _is_first() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
