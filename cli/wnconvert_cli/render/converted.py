"""What a conversion did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding

from wnconvert_cli.render.fused import fused
from wnconvert_cli.render.screen import MOST_ROWS, Rows, Screen, console, table_of
from wnconvert_cli.render.words import bytes_of, counted, safe, shaped, sized
from wnconvert_cli.streams import STREAM

if TYPE_CHECKING:
    from wnconvert.report import Converted, Report
    from wnconvert_cli.result import Result


#: what may be wanted instead where a stale optimizer is left out.
INSTEAD = " [dim](--optimizer reset keeps its hyper-parameters, keep all of it)[/]"


def conversion(result: Result) -> None:
    """Print what a conversion did."""
    report = result.report
    count = counted(len(report.converted), "weight")
    schemes = ", ".join(dict.fromkeys(entry.scheme for entry in report.converted))
    verified = "bit-identical in the written file"
    if not report.exact:
        verified = "in the written file as computed, [yellow]not identical to the input's[/]"
    output = f"[bold]{safe(str(result.output))}[/]"
    with console() as out:
        if report.converted:
            out.print(Padding(_weights(report, result.shapes), (1, 0, 1, 2)))
            out.print(f"[bold]converted:[/] {count} [dim]({schemes})[/]")
        fused(out, report)
        _skipped(out, report)
        for optimizer in report.optimizers:
            out.print(f"[bold]optimizer:[/] {safe(str(optimizer))}{INSTEAD if optimizer.became == 'dropped' else ''}")
        if result.dry_run:
            out.print(f"[bold]dry run:[/]   nothing written; it would be {output}")
            _loads_into(out, result)
            return
        out.print(f"[bold]verified:[/]  [green]{count} {verified}[/]")
        places = (("", result.output), ("input ", result.source))
        sizes = "; ".join(f"{what}{sized(bytes_of(path))}" for what, path in places if path != STREAM)
        out.print(f"[bold]written:[/]   {output} [dim]({', '.join(filter(None, (result.format, sizes)))})[/]")
        if result.record:
            out.print(f"[bold]record:[/]    {safe(str(result.record))} [dim](belongs beside it)[/]")
        _loads_into(out, result)


def _loads_into(out: Screen, result: Result) -> None:
    """Print what loads the output: the last line, for it is what is to be done next."""
    if result.loads_into is not None:
        out.print(f"[bold]loaded by:[/] {safe(str(result.loads_into))}")


def _weights(report: Report, shapes: Mapping[str, tuple[int, ...]]) -> Rows:
    rows = [
        {
            "weight": safe(_pattern(entries[0].fqn) if len(entries) > 1 else entries[0].fqn),
            "count": str(len(entries)) if len(report.converted) > MOST_ROWS else "",
            "shape": shaped(shapes.get(entries[0].fqn)),
            "op": safe(entries[0].op),
            "kept dim": _dims(entries[0].kept_dim),
            "parts": f"[cyan]{safe(' '.join(_parts(entries[0])))}[/]",
            "change": "" if report.exact else f"{max(entry.max_abs_error for entry in entries):.2g}",
        }
        for entries in _alike(report.converted, shapes)
    ]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = table_of(*columns, right=("count", "change"))
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


def _dims(dims: tuple[int, ...] | None) -> str:
    return "" if dims is None else " ".join(map(str, dims)) or "none"


def _pattern(fqn: str) -> str:
    return re.sub(r"\d+", "*", fqn)


def _alike(converted: Sequence[Converted], shapes: Mapping[str, tuple[int, ...]]) -> list[list[Converted]]:
    """Group weights whose names differ in numbers only, where there are too many to list each."""
    groups: dict[object, list[Converted]] = {}
    for entry in converted:
        name = _pattern(entry.fqn) if len(converted) > MOST_ROWS else entry.fqn
        groups.setdefault((name, shapes.get(entry.fqn), entry.op, entry.scheme, entry.kept_dim), []).append(entry)
    return list(groups.values())


def _parts(entry: Converted) -> list[str]:
    """Return the part names: what the keys add to the name of the weight, and the keys that all weights share."""
    module, dot, name = entry.fqn.rpartition(".")
    under = f"{module}{dot}parametrizations.{name}."
    if entry.keys and all(key.startswith(under) for key in entry.keys):
        return [key.removeprefix(under) for key in entry.keys]
    if factors := [key[key.rindex(".lora_") + 1 :] for key in entry.keys if ".lora_" in key]:
        return factors
    # a wrapper may have a module of its own, which is in the old names or in the new ones alone
    leaves = [key.rpartition(".")[2] for key in entry.keys]
    own = list(dict.fromkeys(leaf.removeprefix(f"{name}_") for leaf in leaves if leaf.startswith(f"{name}_")))
    others = [key for key in entry.keys if not key.endswith(tuple(f"_{part}" for part in own))]
    beside = [key for key in others if module and key.startswith(f"{module}.")]
    names = [key.removeprefix(f"{module}.") for key in beside]
    return [*names, *own, *(f"+ {key.rpartition('.')[2]}" for key in others if key not in beside)]


def _skipped(out: Screen, report: Report) -> None:
    counts = Counter(entry.reason for entry in report.skipped).most_common()
    example = {entry.reason: entry.fqn for entry in reversed(report.skipped)}
    label = "[bold]skipped:[/]  "
    for reason, count in counts[:MOST_ROWS]:
        names = safe(example[reason]) + (f" and {count - 1} more" if count > 1 else "")
        out.print(f"{label} {safe(reason)} [dim]({names})[/]")
        label = " " * len("skipped:  ")
    if more := sum(count for _, count in counts[MOST_ROWS:]):
        out.print(f"{label} [dim]... {counted(more, 'weight')} more, for other reasons[/]")
