"""The last lines: whether all was done that was asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wnconvert_cli.exits import DONE, NOTHING
from wnconvert_cli.render.screen import MOST_ROWS, console
from wnconvert_cli.render.words import counted, safe, some

if TYPE_CHECKING:
    from wnconvert.report import Report
    from wnconvert_cli.result import Result


#: a name in a text
_QUOTED = re.compile(r"'[^']*'")


def counts(report: Report) -> str:
    """Return ``3 converted, 1 NOT``; what was not asked for, or is as it is wanted, does not count."""
    missed = len(report.missed)
    return f"{len(report.converted)} converted" + (f", {missed} NOT" if missed else "")


def partial(report: Report) -> None:
    """Say in colour, where it is so, that something that was asked for was not done."""
    if report.missed:
        with console() as out:
            out.print(f"[bold]partial:[/]   [yellow]{counts(report)}[/] [dim](--strict makes that a failure)[/]")


def one_of_several(result: Result) -> None:
    """Print what a conversion did in a line."""
    report = result.report
    schemes = ", ".join(dict.fromkeys(entry.scheme for entry in report.converted))
    done = f"[yellow]{counts(report)}[/]" if report.missed else f"[green]{counts(report)}[/]"
    written = "would be " if result.dry_run else ""
    became = "".join(f"; optimizer {safe(f'{each.path!r}')} {each.became}" for each in report.optimizers)
    with console() as out:
        out.print(
            f"{safe(str(result.source))}: {done} [dim]({safe(schemes)})[/], {written}{safe(str(result.output))}{became}"
        )


def loaders(files: Sequence[Mapping[str, Any]]) -> None:
    """Print what loads the outputs of several inputs: each answer once, with the outputs that it is for."""
    told: dict[object, list[tuple[str, str]]] = {}
    for entry in files:
        if entry["exit_code"] == DONE and (answer := entry["loads_into"]):
            alike = _QUOTED.sub("", answer["text"]), *answer["code"]  # each names a key of its own file
            told.setdefault(alike, []).append((answer["text"], entry["output"]))
    with console() as out:
        for answers in list(told.values())[:MOST_ROWS]:
            of = some([output for _, output in answers]) if len(told) > 1 else ""
            out.print(f"[bold]loaded by:[/] {safe(answers[0][0])}{of}")
        if len(told) > MOST_ROWS:
            out.print(f"[dim]... {len(told) - MOST_ROWS} more answers; --json has them all[/]")


def all_of(files: Sequence[Mapping[str, Any]], ended: Counter[int], done: str = "converted") -> None:
    """Print of how many of several inputs it was done, and of how many not, in colour."""
    partly = sum(entry["exit_code"] == DONE and bool(entry.get("missed")) for entry in files)
    failed = sum(count for code, count in ended.items() if code not in (DONE, NOTHING))
    parts = [
        (ended[DONE] - partly, "green", done),
        (partly, "yellow", f"{done} in part"),
        (ended[NOTHING], "dim", "with nothing to do"),
        (failed, "red", "failed"),
    ]
    with console() as out:
        told = ", ".join(f"[{colour}]{count} {what}[/]" for count, colour, what in parts if count)
        out.print(f"[bold]{counted(len(files), 'file')}:[/] {told}")
