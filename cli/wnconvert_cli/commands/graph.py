"""``wnconvert graph``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wnconvert_cli.answer import Answer
from wnconvert_cli.lines import say
from wnconvert_cli.options import Exclude, Force, Include, Json, Model, Source, Trust, complete_scheme

#: the entry of which nothing is known yet.
BLANK: Mapping[str, Any] = {"output": None, "did": None, "nodes": None, "regions": {}, "opaque": [], "notes": []}


def graph(
    source: Source,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="What to write, by its suffix: .svg, .html or .dot. Takes the extra [graph], and Graphviz.",
            show_default=False,
        ),
    ],
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            "-s",
            metavar="NAME",
            help="Show what applying it does; by default, what folding does, or, where no weight is computed, applying "
            "weight_norm.",
            autocompletion=complete_scheme,
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    model: Model = None,
    trust: Trust = False,
    force: Force = False,
    json: Json = False,
    answer: Answer,
) -> None:
    """Draw the graph of a model before and after a conversion, with what was done marked.

    What is inserted, what is folded, what the graph does not look into (opaque), and
    what is converted in place inside of that. The model itself is left alone.
    """
    from wnconvert.checkpoint import writing
    from wnconvert.selection import Selection
    from wnconvert_cli import render
    from wnconvert_cli.deploying import Wanted
    from wnconvert_cli.figures.graphs import counts, drawn, kind_of
    from wnconvert_cli.graphing import graphed

    entry = answer.open(source, **BLANK)
    kind = kind_of(output)
    wanted = Wanted(source, model, (), trust)
    writing.check(output, wanted.file, force=force)
    with render.progress(f"drawing {source}"):
        marked, report = graphed(wanted, scheme, Selection(tuple(include or ("*",)), tuple(exclude or ())))
        writing.write(output, drawn(source, marked, kind), force=force)
    for note in report.notes:
        say("note", note)
    entry |= {
        "output": str(output),
        "did": "folded" if marked.verb == "folded" else "applied",
        "nodes": {"before": len(marked.before.nodes), "after": len(marked.after.nodes)},
        "regions": counts(marked),
        "opaque": sorted(marked.opaque),
        "notes": list(report.notes),
        "exit_code": 0,
    }
    if not json:
        render.graph(output, entry)
