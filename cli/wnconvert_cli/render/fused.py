"""What was fused, and how far the result is from float64."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from wnconvert_cli.render.screen import Screen
from wnconvert_cli.render.words import counted, safe, some

if TYPE_CHECKING:
    from wnconvert.report import Report


def fused(out: Screen, report: Report) -> None:
    """Print what was fused, if anything was: it is not exact, so the error of it stands beside that of the model."""
    if not report.fused:
        return
    kinds = ", ".join(f"{count} {safe(name)}" for name, count in Counter(each.fusion for each in report.fused).items())
    names = some([each.fqn for each in report.fused])
    out.print(f"[bold]fused:[/]     {counted(len(report.fused), 'normalization')} [dim]({kinds})[/]{names}")
    measured = report.measured
    if measured is None:
        out.print("[bold]error:[/]     [yellow]not measured, for there are no inputs to measure it on[/]")
        return
    numbers = f"{measured.fused:.2g} against float64, unfused {measured.unfused:.2g}"
    out.print(f"[bold]error:[/]     {numbers} [dim]({safe(measured.dtype)}, {measured.inputs} inputs)[/]")
