"""``-`` in the place of a file: standard input, or standard output.

Checkpoints are mapped and verified, which streams cannot be. So what comes in is kept in a file, and what goes out is
written to one first; both are in the folder for temporary files (``TMPDIR``), where nobody else can read them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wnconvert.checkpoint.storage import scratch
from wnconvert.errors import OptionError, OutputError, WnconvertError
from wnconvert_cli.exits import message
from wnconvert_cli.lines import UntoldError, give_up

STREAM = Path("-")
#: bytes that are copied at once.
CHUNK = 1 << 20


@contextlib.contextmanager
def received(file: Path) -> Iterator[Path]:
    """Give what to read: the file itself, or one that holds what comes from standard input.

    Raises:
        OptionError: that is a terminal, or closed.
        OutputError: there is no room to keep it.
    """
    if file != STREAM:
        yield file
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise OptionError("input '-' is standard input, and nothing is redirected to it; give a file")
    with _kept() as path:
        try:
            _keep(path)
        except OSError as error:
            where = str(path.parents[2])
            raise OutputError(
                f"cannot keep standard input in {where!r}: {message(error)}; TMPDIR names another folder"
            ) from error
        try:
            yield path
        except WnconvertError as error:
            error.args = tuple(str(each).replace(str(path), str(STREAM)) for each in error.args)
            raise


@contextlib.contextmanager
def reserved() -> Iterator[BinaryIO]:
    """Keep standard output for the bytes of a checkpoint: all else that is printed goes to standard error.

    Raises:
        OptionError: it is a terminal, or closed.
    """
    if sys.stdout is None or sys.stdout.isatty():
        raise OptionError("output '-' is standard output, which is not redirected; give a name with -o")
    binary = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):
        yield binary


@contextlib.contextmanager
def sent(output: Path, stdout: BinaryIO | None) -> Iterator[Path]:
    """Give where to write: the output itself, or a file whose bytes go to standard output in the end.

    Args:
        output: what the user wants.
        stdout: what `reserved` gave, where it was asked.

    Raises:
        OutputError: standard output takes no more.
        UntoldError: whoever reads it has had enough.
    """
    if stdout is None or output != STREAM:
        yield output
        return
    with _kept() as path:
        yield path
        scratch.placed.clear()  # it is nowhere yet
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, stdout, CHUNK)
            stdout.flush()
        except OSError as error:
            give_up(stdout)
            if isinstance(error, BrokenPipeError):
                raise UntoldError(error) from error
            raise OutputError(f"cannot write '-': {message(error)}") from error


@contextlib.contextmanager
def _kept() -> Iterator[Path]:
    folder = Path(tempfile.gettempdir())
    scratch.clear(folder)
    with scratch.scratch(folder) as room:
        yield room.new(str(STREAM))


def _keep(path: Path) -> None:
    """Write what comes from standard input; where that is a file, who may read it may read what is made of it."""
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, CHUNK)
    with contextlib.suppress(OSError):  # it has no number
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if stat.S_ISREG(mode):
            path.chmod(stat.S_IMODE(mode) | stat.S_IRUSR)
