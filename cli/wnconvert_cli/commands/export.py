"""``wnconvert export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wnconvert_cli.answer import Answer
from wnconvert_cli.lines import say
from wnconvert_cli.options import DryRun, Force, Fuse, Inputs, Json, Model, Quiet, Source, Trust

#: the entry of which nothing is known yet, but for what a report has.
BLANK: Mapping[str, Any] = {
    "output": None,
    "format": None,
    "normalizations": None,
    "weights": [],
    "counts": {},
    "inputs": {},
    "bytes": None,
    "compared": None,
    "warnings": [],
}


def export(
    source: Source,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="What to write, by its suffix: .pt2, .onnx, .aoti.pt2 (AOTInductor) or .pte (ExecuTorch).",
            show_default=False,
        ),
    ],
    input: Inputs = None,
    fuse: Fuse = None,
    model: Model = None,
    trust: Trust = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail, and write nothing, if any weight is computed in the output still.")
    ] = False,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    answer: Answer,
) -> None:
    """Write what is deployed: the model folded, exported and compared.

    A program of torch.export, ONNX, AOTInductor or ExecuTorch in which no weight is
    computed any more. It appears once its outputs were compared with the model's on
    inputs of several sizes, or not at all.
    """
    from wnconvert.report import Report
    from wnconvert_cli import render
    from wnconvert_cli.deploying import Wanted, deploy

    entry = answer.open(source, **BLANK, **Report().to_dict())
    wanted = Wanted(source, model, tuple(input or ()), trust)
    with render.progress(f"exporting {source}", quiet=quiet):
        result = deploy(wanted, output, fuse, strict=strict, force=force, dry_run=dry_run)
    entry["warnings"] = [] if result.warning is None else [result.warning]
    for text in entry["warnings"]:
        say("warning", text)
    for note in () if quiet else result.report.notes:
        say("note", note)
    entry |= {**result.to_dict(), "exit_code": 0} | ({"output": None} if dry_run else {})
    if not (json or quiet):
        render.export(result, dry_run=dry_run)
