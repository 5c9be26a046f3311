"""What is in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.padding import Padding

from wnconvert_cli.render.screen import Screen, console, facts
from wnconvert_cli.render.words import TIMES, counted, safe, sized, some

if TYPE_CHECKING:
    from wnconvert.checkpoint import StateDictSummary
    from wnconvert.report import Finding


def inspection(
    path: Path,
    size: int,
    title: str,
    metadata: Mapping[str, str],
    notes: Sequence[str],
    summaries: Sequence[StateDictSummary],
) -> None:
    """Print what is in a checkpoint of so many bytes."""
    count = counted(len(summaries), "state dict") if summaries else "no state dict"
    with console() as out:
        out.print(f"[bold]{safe(str(path))}[/] [dim]({title}, {sized(size)}, {count})[/]")
        for key, text in metadata.items():
            out.print(f"  [dim]metadata[/]    {safe(key)} = {safe(text if len(text) <= 60 else text[:57] + '...')}")
        for note in notes:
            out.print(f"  [dim]note[/]        {safe(note)}")
        for summary in summaries:
            out.print()
            _state_dict(out, summary)


def findings(found: Sequence[Finding]) -> None:
    """Print what silently misbehaves on a normalized model, and what to do."""
    if not found:
        return
    with console() as out:
        out.print("\n[bold]beware[/]")
        table = facts()
        for finding in found:
            names = some(finding.fqns)
            table.add_row(finding.topic, f"[yellow]{safe(finding.problem)}[/]; {safe(finding.remedy)}{names}")
        out.print(Padding(table, (0, 0, 0, 2)))


def _state_dict(out: Screen, summary: StateDictSummary) -> None:
    others = f" and {counted(summary.others, 'other entry', 'other entries')}" if summary.others else ""
    out.print(f"[bold]{safe(summary.path) or '(root)'}[/]")
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in summary.dtypes.items())
    table = facts()
    table.add_row("tensors", f"{summary.tensors} ({dtypes}), {sized(summary.bytes)}{others}")
    recorded = f" ({summary.recorded} recorded by wnconvert)" if summary.recorded else ""
    normalized = ", ".join(f"{counted(n, 'weight')} under [cyan]{name}[/]" for name, n in summary.schemes.items())
    table.add_row("normalized", (normalized or "none") + recorded)
    if summary.adapter:
        table.add_row("adapter", f"[cyan]{safe(summary.adapter)}[/]")
    if summary.layouts:
        layouts = ", ".join(f"{count} {safe(name)}" for name, count in summary.layouts.items())
        table.add_row("layout", layouts + (f" [dim](folding saves {sized(summary.saved)})[/]" if summary.saved else ""))
    if summary.kept:
        kept = "; ".join(f"{safe(scheme)} {_kept(dims)}" for scheme, dims in summary.kept.items())
        table.add_row("kept dim", kept)
    table.add_row("plain", counted(len(summary.plain), "weight") + some(summary.plain))
    if summary.folded:
        folded = ", ".join(f"{counted(n, 'weight')} from [cyan]{safe(name)}[/]" for name, n in summary.folded.items())
        table.add_row("folded", f"{folded}, as recorded by wnconvert")
    if summary.unknown:
        table.add_row("unknown", f"[yellow]{counted(len(summary.unknown), 'weight')}{some(summary.unknown)}[/]")
    if summary.zero:
        table.add_row("zero", f"[yellow]{_channels(summary.zero)}[/]")
    if summary.non_finite:
        table.add_row("non-finite", f"[red]{_channels(summary.non_finite)}[/]")
    out.print(Padding(table, (0, 0, 0, 2)))


def _kept(counts: Mapping[str, int]) -> str:
    """Return ``dim 0 x 78, dim 2 x 1``."""
    names = {"none": "whole tensor", "unknown": "unknown"}
    words = {dims: names.get(dims) or f"dim{'s' if ' ' in dims else ''} {dims}" for dims in counts}
    return ", ".join(f"{words[dims]} {TIMES} {count}" for dims, count in counts.items())


def _channels(counts: Mapping[str, int]) -> str:
    return f"{counted(sum(counts.values()), 'channel')} of {', '.join(map(safe, list(counts)[:3]))}" + (
        f" and {len(counts) - 3} more" if len(counts) > 3 else ""
    )
