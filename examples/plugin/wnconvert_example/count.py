"""A command: how many numbers a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def count(file: Annotated[Path, typer.Argument(help="The checkpoint.")]) -> None:
    """Count the numbers in a checkpoint."""
    from wnconvert.checkpoint import find_state_dicts, load

    found = find_state_dicts(load(file).content)
    typer.echo(sum(tensor.numel() for each in found for tensor in each.tensors.values()))
