"""Text that breaks where names may: names of weights and paths have no spaces, and narrow terminals few columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

#: what a long word is broken after, in order of preference: between folders, between modules, within a name.
BREAKS = (re.compile(r"[/\\]"), re.compile(r"[.\N{MULTIPLICATION SIGN}]"), re.compile(r"[-_,=:]"))
_PIECE = re.compile(rf".+?(?:{'|'.join(sign.pattern for sign in BREAKS)}|$)")


class Flowing:
    """Markup whose words, where a line does not hold them, are broken after a dot or a slash rather than anywhere.

    No word is broken that one line holds, and nothing is cut. Rich's own `Text` breaks long words where the line ends.
    """

    def __init__(self, markup: str) -> None:
        self.text = Text.from_markup(markup)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        for line in self.text.split(allow_blank=True):
            ends = [] if options.no_wrap else list(line_ends(line.plain, options.max_width))
            for piece in line.divide(ends):
                piece.rstrip()
                yield piece

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return how narrow a column may be, and how wide it is at most."""
        pieces = [cell_len(piece) for word in self.text.plain.split() for piece in _PIECE.findall(word)]
        return Measurement(max(pieces, default=0), max(map(cell_len, self.text.plain.splitlines()), default=0))


def line_ends(text: str, width: int) -> Iterator[int]:
    """Yield where the lines of a text end, each as an offset into it.

    Args:
        text: one line.
        width: of the lines that it becomes, in cells; at least one character stands in each.
    """
    start = 0
    for word in re.finditer(r"\S+", text):
        if cell_len(text[start : word.end()]) <= width:
            continue
        if word.start() > start and cell_len(word.group()) <= width:
            start = word.start()
            yield start
            continue
        while cell_len(text[start : word.end()]) > width:
            start = _break(text, start, word, width)
            yield start


def _break(text: str, start: int, word: re.Match[str], width: int) -> int:
    """Return where a line ends that begins at ``start`` and does not hold all of a word, which is wider than a line."""
    last, used = start + 1, cell_len(text[start])
    while last < word.end() and (used := used + cell_len(text[last])) <= width:
        last += 1
    begin = max(start, word.start())
    for sign in BREAKS:
        if ends := [found.end() for found in sign.finditer(text, begin, last)]:
            return ends[-1]
        if begin > start:  # the next line holds more of it
            return begin
    return last
