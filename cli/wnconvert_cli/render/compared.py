"""How two files differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.padding import Padding

from wnconvert_cli.render.screen import MOST_ROWS, Rows, console, table_of
from wnconvert_cli.render.words import counted, safe, some

if TYPE_CHECKING:
    from wnconvert.checkpoint.comparing.comparison import Compared, Comparison


def comparison(first: Path, second: Path, compared: Comparison) -> None:
    """Print how two checkpoints differ."""
    worst = max(compared.compared, key=lambda entry: entry.max_rel)
    composed = [entry for entry in compared.compared if entry.layouts != ("plain", "plain")]
    same = sum(entry.equal for entry in compared.compared)
    with console() as out:
        if compared.differing:
            out.print(Padding(_differences(compared.differing), (1, 0, 1, 2)))
        across = f" [dim]({counted(len(composed), 'weight')} composed from parts)[/]" if composed else ""
        out.print(f"[bold]compared:[/]  {counted(len(compared.compared), 'tensor')}{across}")
        for path, names in ((first, compared.only_first), (second, compared.only_second)):
            if names:
                only = f"[red]{counted(len(names), 'tensor')} only in {safe(str(path))}[/]"
                out.print(f"[bold]missing:[/]   {only}{some(names)}")
        out.print(f"[bold]identical:[/] {same} of {len(compared.compared)}")
        if same < len(compared.compared):
            ulps = "" if worst.ulps is None else f", {counted(worst.ulps, 'ULP')}"
            most = f"{worst.max_abs:.3g} absolute, {worst.max_rel:.3g} relative{ulps}"
            out.print(f"[bold]largest:[/]   {most} [dim]({safe(worst.name)})[/]")
        out.print(f"[bold]verdict:[/]   {_verdict(compared)}")


def _verdict(compared: Comparison) -> str:
    if compared.equal:
        return "[green]bit-identical[/]"
    if compared.passed:
        return f"[green]equal within {compared.tolerance:g}[/]"
    return "[red]different[/]" + (f" [dim](tolerance {compared.tolerance:g})[/]" if compared.tolerance else "")


def _differences(entries: Sequence[Compared]) -> Rows:
    table = table_of("weight", "layouts", "max abs", "max rel", "ULPs", right=("max abs", "max rel", "ULPs"))
    for entry in entries[:MOST_ROWS]:
        layouts = " | ".join(dict.fromkeys(entry.layouts))
        ulps = "" if entry.ulps is None else str(entry.ulps)
        figures = (f"{entry.max_abs:.3g}", f"{entry.max_rel:.3g}", ulps)
        if entry.problem:
            table.add_row(safe(entry.name), f"[yellow]{safe(entry.problem)}[/]")
        else:
            table.add_row(safe(entry.name), f"[dim]{layouts}[/]", *figures)
    if len(entries) > MOST_ROWS:
        table.add_row(f"[dim]... {len(entries) - MOST_ROWS} more[/]")
    return table
