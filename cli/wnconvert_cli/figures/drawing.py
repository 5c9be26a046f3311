"""Where the figure of a file goes: what can be told before any work is told then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wnconvert.errors import OptionError

if TYPE_CHECKING:
    from wnconvert.checkpoint.measuring.statistics import WeightStatistics
    from wnconvert_cli.batch import Input


def place_of(option: str, output: Path, inputs: Sequence[Input], *, force: bool) -> None:
    """Check that what is told of the one input may be written.

    Args:
        option: that by which the user asks for it.
        output: the file.
        inputs: the inputs of the command.
        force: whether a file that exists may be replaced.

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
    writing.check(output, source, force=force)


class Drawing(NamedTuple):
    """A figure that is to be drawn."""

    output: Path
    kind: str
    force: bool

    @classmethod
    def of(cls, output: Path | None, inputs: Sequence[Input], *, force: bool) -> Drawing | None:
        """Return what ``--plot`` asks for, having checked that it can be had; None where it asks for nothing.

        Raises:
            OptionError: matplotlib is not installed, or the name is none of a picture.
            OutputError: it may not be written.
        """
        if output is None:
            return None
        from wnconvert.drawing import kind_of

        kind = kind_of(output)
        place_of("--plot", output, inputs, force=force)
        return cls(output, kind, force)

    def write(self, file: Path, weights: Sequence[WeightStatistics]) -> None:
        """Draw the weights of a file.

        Raises:
            OutputError: the figure cannot be written.
            NothingToConvertError: there is no weight.
        """
        from wnconvert.checkpoint import writing
        from wnconvert.errors import NothingToConvertError
        from wnconvert_cli.figures.plotted import picture

        if not weights:
            raise NothingToConvertError(f"{str(file)!r} holds no weight that could be drawn; nothing was written")
        writing.write(self.output, picture(file.name, weights, self.kind), force=self.force)
