"""How results look. Nothing else imports rich."""

from __future__ import annotations

import json as json_module
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from wnconvert_cli.lines import printable

if TYPE_CHECKING:
    from wnconvert.checkpoint import StateDictSummary
    from wnconvert.checkpoint.comparing.comparison import Compared, Comparison
    from wnconvert.report import Converted, Finding, Report
    from wnconvert_cli.result import Result

#: more weights than this are shown together with those whose names differ in numbers only.
MOST_ROWS = 20
TIMES = "\N{MULTIPLICATION SIGN}"
#: when nobody looks at a terminal, lines may be as long as they are.
UNLIMITED = 10_000


@contextmanager
def console() -> Iterator[Console]:
    """Give a console whose output goes to stdout, without spaces at the ends of lines."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    out = Console(highlight=False, soft_wrap=not narrow, width=None if narrow else UNLIMITED)
    with out.capture() as capture:
        yield out
    encoding = sys.stdout.encoding or "utf-8"
    for line in capture.get().splitlines():
        print(line.rstrip().encode(encoding, "replace").decode(encoding))  # noqa: T201 (stdout is the result)


def progress(text: str) -> AbstractContextManager[Any]:
    """Show on stderr what goes on, if somebody looks; it leaves no trace."""
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True).status(f"[dim]{_safe(text)}[/]", spinner="dots")


def json(data: object) -> None:
    """Print data as JSON."""
    print(json_module.dumps(_finite(data), indent=2))  # noqa: T201 (stdout is the result)


def conversion(result: Result) -> None:
    """Print what a conversion did."""
    report = result.report
    count = _count(len(report.converted), "weight")
    schemes = ", ".join(dict.fromkeys(entry.scheme for entry in report.converted))
    verified = "bit-identical in the written file"
    if not report.exact:
        verified = "in the written file as computed, [yellow]not identical to the input's[/]"
    output = f"[bold]{_safe(str(result.output))}[/]"
    with console() as out:
        out.print(Padding(_weights(report, result.shapes), (1, 0, 1, 2)))
        out.print(f"[bold]converted:[/] {count} [dim]({schemes})[/]")
        _skipped(out, report)
        if result.dry_run:
            out.print(f"[bold]dry run:[/]   nothing written; it would be {output}")
            return
        out.print(f"[bold]verified:[/]  [green]{count} {verified}[/]")
        sizes = f"{result.format}, {_size(bytes_of(result.output))}; input {_size(bytes_of(result.source))}"
        out.print(f"[bold]written:[/]   {output} [dim]({sizes})[/]")
        if result.record:
            out.print(f"[bold]record:[/]    {_safe(str(result.record))} [dim](belongs beside it)[/]")


def _weights(report: Report, shapes: Mapping[str, tuple[int, ...]]) -> Table:
    rows = [
        {
            "weight": _safe(_pattern(entries[0].fqn) if len(entries) > 1 else entries[0].fqn),
            "count": str(len(entries)) if len(report.converted) > MOST_ROWS else "",
            "shape": _shape(shapes.get(entries[0].fqn)),
            "op": _safe(entries[0].op),
            "reduced dims": _dims(entries[0].dims),
            "parts": f"[cyan]{_safe(' '.join(_parts(entries[0])))}[/]",
            "change": "" if report.exact else f"{max(entry.max_abs_error for entry in entries):.2g}",
        }
        for entries in _alike(report.converted, shapes)
    ]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = _table(*columns, right=("count", "change"))
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else f"[dim]{TIMES.join(map(str, shape))}[/]"


def _dims(dims: tuple[int, ...] | None) -> str:
    return "" if dims is None else " ".join(map(str, dims)) or "none"


def _pattern(fqn: str) -> str:
    return re.sub(r"\d+", "*", fqn)


def _alike(converted: Sequence[Converted], shapes: Mapping[str, tuple[int, ...]]) -> list[list[Converted]]:
    """Group weights whose names differ in numbers only, where there are too many to list each."""
    groups: dict[object, list[Converted]] = {}
    for entry in converted:
        name = _pattern(entry.fqn) if len(converted) > MOST_ROWS else entry.fqn
        groups.setdefault((name, shapes.get(entry.fqn), entry.op, entry.scheme, entry.dims), []).append(entry)
    return list(groups.values())


def _parts(entry: Converted) -> list[str]:
    """Return the part names: what the keys add to the name of the weight, and the keys that all weights share."""
    module, dot, name = entry.fqn.rpartition(".")
    under = f"{module}{dot}parametrizations.{name}."
    if entry.keys and all(key.startswith(under) for key in entry.keys):
        return [key.removeprefix(under) for key in entry.keys]
    if factors := [key[key.rindex(".lora_") + 1 :] for key in entry.keys if ".lora_" in key]:
        return factors
    own = [key.removeprefix(f"{entry.fqn}_") for key in entry.keys if key.startswith(f"{entry.fqn}_")]
    others = [key for key in entry.keys if not key.endswith(tuple(f"_{part}" for part in own))]
    beside = [key for key in others if module and key.startswith(f"{module}.")]
    names = [key.removeprefix(f"{module}.") for key in beside]
    return [*names, *own, *(f"+ {key.rpartition('.')[2]}" for key in others if key not in beside)]


def _skipped(out: Console, report: Report) -> None:
    counts = Counter(entry.reason for entry in report.skipped).most_common()
    example = {entry.reason: entry.fqn for entry in reversed(report.skipped)}
    label = "[bold]skipped:[/]  "
    for reason, count in counts[:MOST_ROWS]:
        names = _safe(example[reason]) + (f" and {count - 1} more" if count > 1 else "")
        out.print(f"{label} {_safe(reason)} [dim]({names})[/]")
        label = " " * len("skipped:  ")
    if more := sum(count for _, count in counts[MOST_ROWS:]):
        out.print(f"{label} [dim]... {_count(more, 'weight')} more, for other reasons[/]")


def inspection(
    path: Path, title: str, metadata: Mapping[str, str], notes: Sequence[str], summaries: Sequence[StateDictSummary]
) -> None:
    """Print what is in a checkpoint."""
    count = _count(len(summaries), "state dict") if summaries else "no state dict"
    with console() as out:
        out.print(f"[bold]{_safe(str(path))}[/] [dim]({title}, {_size(bytes_of(path))}, {count})[/]")
        for key, text in metadata.items():
            out.print(f"  [dim]metadata[/]    {_safe(key)} = {_safe(text if len(text) <= 60 else text[:57] + '...')}")
        for note in notes:
            out.print(f"  [dim]note[/]        {_safe(note)}")
        for summary in summaries:
            out.print()
            _state_dict(out, summary)


def findings(found: Sequence[Finding]) -> None:
    """Print what silently misbehaves on a normalized model, and what to do."""
    if not found:
        return
    with console() as out:
        out.print("\n[bold]beware[/]")
        table = _facts()
        for finding in found:
            names = _some(finding.fqns)
            table.add_row(finding.topic, f"[yellow]{_safe(finding.problem)}[/]; {_safe(finding.remedy)}{names}")
        out.print(Padding(table, (0, 0, 0, 2)))


def _state_dict(out: Console, summary: StateDictSummary) -> None:
    others = f" and {_count(summary.others, 'other entry', 'other entries')}" if summary.others else ""
    out.print(f"[bold]{_safe(summary.path) or '(root)'}[/]")
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in summary.dtypes.items())
    table = _facts()
    table.add_row("tensors", f"{summary.tensors} ({dtypes}), {_size(summary.bytes)}{others}")
    recorded = f" ({summary.recorded} recorded by wnconvert)" if summary.recorded else ""
    normalized = ", ".join(f"{_count(n, 'weight')} under [cyan]{name}[/]" for name, n in summary.schemes.items())
    table.add_row("normalized", (normalized or "none") + recorded)
    if summary.layouts:
        layouts = ", ".join(f"{count} {_safe(name)}" for name, count in summary.layouts.items())
        table.add_row("layout", layouts + (f" [dim](folding saves {_size(summary.saved)})[/]" if summary.saved else ""))
    if summary.kept:
        kept = "; ".join(f"{_safe(scheme)} {_kept(dims)}" for scheme, dims in summary.kept.items())
        table.add_row("kept dims", kept)
    table.add_row("plain", _count(len(summary.plain), "weight") + _some(summary.plain))
    if summary.folded:
        folded = ", ".join(f"{_count(n, 'weight')} from [cyan]{_safe(name)}[/]" for name, n in summary.folded.items())
        table.add_row("folded", f"{folded}, as recorded by wnconvert")
    if summary.unknown:
        table.add_row("unknown", f"[yellow]{_count(len(summary.unknown), 'weight')}{_some(summary.unknown)}[/]")
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
    return f"{_count(sum(counts.values()), 'channel')} of {', '.join(map(_safe, list(counts)[:3]))}" + (
        f" and {len(counts) - 3} more" if len(counts) > 3 else ""
    )


def _some(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f", ... {len(names) - 3} more" if len(names) > 3 else ""
    return f" [dim]({', '.join(map(_safe, names[:3]))}{more})[/]"


def comparison(first: Path, second: Path, compared: Comparison) -> None:
    """Print how two checkpoints differ."""
    worst = max(compared.compared, key=lambda entry: entry.max_rel)
    composed = [entry for entry in compared.compared if entry.layouts != ("plain", "plain")]
    same = sum(entry.equal for entry in compared.compared)
    with console() as out:
        if compared.differing:
            out.print(Padding(_differences(compared.differing), (1, 0, 1, 2)))
        across = f" [dim]({_count(len(composed), 'weight')} composed from parts)[/]" if composed else ""
        out.print(f"[bold]compared:[/]  {_count(len(compared.compared), 'tensor')}{across}")
        for path, names in ((first, compared.only_first), (second, compared.only_second)):
            if names:
                only = f"[red]{_count(len(names), 'tensor')} only in {_safe(str(path))}[/]"
                out.print(f"[bold]missing:[/]   {only}{_some(names)}")
        out.print(f"[bold]identical:[/] {same} of {len(compared.compared)}")
        if same < len(compared.compared):
            ulps = "" if worst.ulps is None else f", {_count(worst.ulps, 'ULP')}"
            most = f"{worst.max_abs:.3g} absolute, {worst.max_rel:.3g} relative{ulps}"
            out.print(f"[bold]largest:[/]   {most} [dim]({_safe(worst.name)})[/]")
        out.print(f"[bold]verdict:[/]   {_verdict(compared)}")


def _verdict(compared: Comparison) -> str:
    if compared.equal:
        return "[green]bit-identical[/]"
    if compared.passed:
        return f"[green]equal within {compared.tolerance:g}[/]"
    return "[red]different[/]" + (f" [dim](tolerance {compared.tolerance:g})[/]" if compared.tolerance else "")


def _differences(entries: Sequence[Compared]) -> Table:
    table = _table("weight", "layouts", "max abs", "max rel", "ULPs", right=("max abs", "max rel", "ULPs"))
    for entry in entries[:MOST_ROWS]:
        layouts = " | ".join(dict.fromkeys(entry.layouts))
        ulps = "" if entry.ulps is None else str(entry.ulps)
        figures = (f"{entry.max_abs:.3g}", f"{entry.max_rel:.3g}", ulps)
        if entry.problem:
            table.add_row(_safe(entry.name), f"[yellow]{_safe(entry.problem)}[/]")
        else:
            table.add_row(_safe(entry.name), f"[dim]{layouts}[/]", *figures)
    if len(entries) > MOST_ROWS:
        table.add_row(f"[dim]... {len(entries) - MOST_ROWS} more[/]")
    return table


def schemes(described: Iterable[Mapping[str, Any]]) -> None:
    """Print the table of schemes."""
    table = _table("scheme", "formula, parts, options, paper")
    for each in described:
        keeps = "[green]exact[/]" if each["preserving"] else "[yellow]changes the function[/]"
        options = " ".join(_option(name, option) for name, option in each["options"].items())
        facts = [_safe(each["formula"]), f"[cyan]{_variants(each)}[/]  [dim]{options}[/]", f"[dim]{each['paper']}[/]"]
        table.add_row()
        table.add_row(f"[bold]{each['name']}[/]\n{keeps}", "\n".join(facts))
    with console() as out:
        out.print(table)


def layouts(described: Iterable[Mapping[str, Any]]) -> None:
    """Print the table of layouts."""
    table = _table("layout", "software", "told by", "written", "options")
    for each in described:
        options = " ".join(_option(name, {"default": value}) for name, value in each["options"].items())
        told = "--preset" if each["preset"] else "its keys"
        table.add_row(f"[bold]{_safe(each['name'])}[/]", _safe(each["title"]), told, " ".join(each["written"]), options)
    with console() as out:
        out.print(table)


def scheme(described: Mapping[str, Any]) -> None:
    """Print one scheme in detail."""
    table = _facts()
    table.add_row("formula", f"[cyan]{_safe(described['formula'])}[/]")
    table.add_row("function", "[green]exact[/]" if described["preserving"] else "[yellow]changed[/]")
    table.add_row("parts", _variants(described))
    if described["state"]:
        table.add_row("buffers", " ".join(described["state"]))
    table.add_row("default dim", str(described["dim"]))
    table.add_row("paper", described["paper"])
    options = _table("option", "meaning")
    for name, option in described["options"].items():
        options.add_row(f"[cyan]{_option(name, option)}[/]", _safe(option["meaning"]))
    with console() as out:
        out.print(f"[bold]{described['name']}[/]")
        out.print(Padding(table, (1, 0, 1, 2)))
        for paragraph in described["description"]:
            out.print(Padding(_safe(paragraph), (0, 0, 1, 2)))
        if described["options"]:
            out.print(Padding(options, (0, 0, 0, 2)))


def _variants(described: Mapping[str, Any]) -> str:
    own = " | ".join(" ".join(parts) for parts in described["parts"])
    return " ".join([own, *(f"(one {name} in common)" for name in described["shared"])])


def _facts() -> Table:
    """Return a table of labels and values."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _table(*headers: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for header in headers:
        table.add_column(header, overflow="fold", justify="right" if header in right else "left")
    return table


def _option(name: str, option: Mapping[str, Any]) -> str:
    value = option["default"]
    text = f"{value:g}" if isinstance(value, float) else str(value).lower()
    return f"{name}={text}"


def _safe(text: str) -> str:
    """Return text that is shown as it is, neither markup nor control codes."""
    return escape(printable(text))


def _count(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _finite(data: object) -> object:
    """Return data without the numbers that JSON has not."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data
