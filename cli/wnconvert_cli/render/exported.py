"""What was exported."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from wnconvert_cli.render.fused import fused
from wnconvert_cli.render.screen import console
from wnconvert_cli.render.words import counted, safe, sized, some

if TYPE_CHECKING:
    from wnconvert.deploying.exporting import Export
    from wnconvert.deploying.proof import Compared


def export(result: Export, *, dry_run: bool) -> None:
    """Print what was exported."""
    before, after = result.normalizations
    schemes = Counter(entry.scheme for entry in result.report.converted)
    kinds = ", ".join(f"{count} {safe(name)}" for name, count in schemes.items())
    counts = ", ".join(f"{count} {safe(name)}" for name, count in result.counts.items())
    output = f"[bold]{safe(str(result.output))}[/]"
    with console() as out:
        out.print(f"[bold]normalized:[/] {counted(before, 'weight')} before, {after} after [dim]({kinds or 'none'})[/]")
        fused(out, result.report)
        for name, dims in result.inputs.items():
            out.print(f"[bold]input:[/]     {safe(name)} = {safe(dims)}")
        if result.weights:
            out.print(f"[bold]weights:[/]   {len(result.weights)}{some(result.weights)}")
        out.print(f"[bold]verified:[/]  {_compared(result.compared)}")
        if dry_run:
            out.print(f"[bold]dry run:[/]   nothing written; it would be {output}")
            return
        out.print(f"[bold]written:[/]   {output} [dim]({safe(result.target)}, {sized(result.bytes)}; {counts})[/]")


def _compared(compared: Compared) -> str:
    if not compared.sizes:
        return f"[yellow]outputs were not compared: {safe(compared.reason)}[/]"
    sizes = counted(compared.sizes, "size")
    if compared.same_bits:
        return f"[green]outputs compared on inputs of {sizes}: the same bits[/]"
    text = f"[green]outputs compared on inputs of {sizes}: off by up to {compared.max_abs:.2g}[/]"
    if compared.error is not None and compared.model_error is not None:
        text += f" [dim]({compared.error:.2g} against float64, the model {compared.model_error:.2g})[/]"
    return text
