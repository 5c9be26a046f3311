"""What was drawn of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wnconvert_cli.render.screen import console
from wnconvert_cli.render.words import counted, safe, some


def graph(output: Path, told: Mapping[str, Any]) -> None:
    """Print how many nodes there are, and how many lie in which region.

    Args:
        output: the drawing.
        told: what ``--json`` has of it.
    """
    nodes = told["nodes"]
    with console() as out:
        out.print(f"[bold]graph:[/]    {nodes['before']} nodes before, {nodes['after']} after it was {told['did']}")
        regions = ", ".join(f"{counted(count, 'node')} {region}" for region, count in told["regions"].items() if count)
        out.print(f"[bold]marked:[/]   {regions or 'nothing'}{some(told['opaque'])}")
        out.print(f"[bold]output:[/]   {safe(str(output))}")
