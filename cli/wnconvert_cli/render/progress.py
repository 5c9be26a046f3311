"""What goes on, for those who wait."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from wnconvert_cli.render.words import safe


def progress(text: str) -> AbstractContextManager[Any]:
    """Show on stderr what goes on, if somebody looks; it leaves no trace."""
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status(f"[dim]{safe(text)}[/]", spinner="dots")
