"""Where the figure and the page of a file go: what can be told before any work is told then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wnconvert.errors import OptionError

if TYPE_CHECKING:
    from wnconvert.checkpoint.measuring.statistics import WeightStatistics
    from wnconvert_cli.batch import Input
    from wnconvert_cli.groups import Views


def check_place(option: str, output: Path, inputs: Sequence[Input], *, force: bool, other: Path | None = None) -> None:
    """Check that what is told of the one input may be written.

    Args:
        option: that by which the user asks for it.
        output: the file.
        inputs: the inputs of the command.
        force: whether a file that exists may be replaced.
        other: a file that is read besides, which no force replaces.

    Raises:
        OptionError: there are several inputs, or it is to go to standard output.
        OutputError: it may not be written.
    """
    from wnconvert.checkpoint import writing
    from wnconvert_cli.streams import STREAM

    if len(inputs) > 1:
        raise OptionError(f"{option} tells of one file, and {len(inputs)} are given; give one")
    if output == STREAM:
        raise OptionError(f"{option} is '-', but standard output has the report; give a file")
    source = next((each.path for each in inputs if each.path != STREAM and each.problem is None), None)
    for read in (source, other):
        writing.check(output, read, force=force)


class Outputs(NamedTuple):
    """What is written of a file.

    Attributes:
        plot: the figure.
        kind: of picture that it is.
        html: the page.
        force: whether files that exist are replaced.
    """

    plot: Path | None
    kind: str
    html: Path | None
    force: bool

    @classmethod
    def of(cls, views: Views, inputs: Sequence[Input]) -> Outputs:
        """Return what the options ask for, having checked that it can be had.

        Raises:
            OptionError: matplotlib is not installed, a name is none of a picture, or both have one name.
            OutputError: one may not be written.
        """
        from wnconvert.drawing import kind_of

        kind = kind_of(views.plot) if views.plot else ""
        for option, output in (("--plot", views.plot), ("--html", views.html)):
            if output is not None:
                check_place(option, output, inputs, force=views.force, other=views.against)
        if views.plot and views.html and views.plot.resolve() == views.html.resolve():
            raise OptionError(f"--plot and --html are both {str(views.plot)!r}; give two names")
        return cls(views.plot, kind, views.html, views.force)

    def write(self, told: Mapping[str, Any], weights: Sequence[WeightStatistics] | None) -> None:
        """Write what is asked for.

        Args:
            told: what ``--json`` has of the file.
            weights: its weights, if they were measured.

        Raises:
            OutputError: one cannot be written.
            NothingToConvertError: there is no weight that could be drawn.
        """
        from wnconvert.checkpoint import writing
        from wnconvert.errors import NothingToConvertError

        if self.plot is not None:
            from wnconvert_cli.figures.plotted import picture

            if not weights:
                raise NothingToConvertError(
                    f"{told['input']!r} holds no weight that could be drawn; nothing was written"
                )
            writing.write(self.plot, picture(told["input"], weights, self.kind), force=self.force)
        if self.html is not None:
            from wnconvert_cli.figures.page import page

            writing.write(self.html, page(told), force=self.force)
