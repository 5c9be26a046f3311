"""Texts that may come from a hostile file, made fit for a terminal, and the lines on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO, TextIO

import typer


def printable(text: str) -> str:
    """Return ``text`` in one line, with what could steer a terminal or cannot be encoded spelled out."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def say(kind: str, text: str) -> None:
    """Print one line on stderr: ``error: ...``, ``warning: ...`` or ``note: ...``; where that fails, nobody knows."""
    try:
        typer.echo(f"{kind}: {printable(' '.join(text.split()))}", err=True)
    except OSError:
        give_up(sys.stderr)


class UntoldError(Exception):
    """The result could not be printed.

    Attributes:
        unwanted: whether that is so because whoever reads it has had enough.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__((error.strerror or str(error)).lower())
        self.unwanted = isinstance(error, BrokenPipeError)


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Turn what goes wrong with stdout into an `UntoldError`."""
    try:
        yield
    except OSError as error:
        give_up(sys.stdout)
        raise UntoldError(error) from error


def tell(text: str) -> None:
    """Print a result on stdout.

    Raises:
        UntoldError: that is not possible.
    """
    with telling():
        print(text)  # noqa: T201 (stdout is the result)
        sys.stdout.flush()


def open_all() -> None:
    """Give standard streams that are closed files that cannot be used, so that no other file gets their numbers."""
    for number, (name, flags) in enumerate((("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_RDONLY))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 (it stays open)


def give_up(stream: TextIO | BinaryIO) -> None:
    """Let what a stream still holds go nowhere: Python would try to write it at its end, and end otherwise."""
    with contextlib.suppress(OSError, ValueError):
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, stream.fileno())
        os.close(opened)
