"""Texts that may come from a hostile file, made fit for a terminal, and the lines on stderr."""

from __future__ import annotations

import typer


def printable(text: str) -> str:
    """Return ``text`` in one line, with what could steer a terminal or cannot be encoded spelled out."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def say(kind: str, text: str) -> None:
    """Print one line on stderr: ``error: ...``, ``warning: ...`` or ``note: ...``."""
    typer.echo(f"{kind}: {printable(' '.join(text.split()))}", err=True)
