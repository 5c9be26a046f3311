"""``wnconvert verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wnconvert_cli.exits import UNVERIFIED
from wnconvert_cli.groups import Opening
from wnconvert_cli.lines import say
from wnconvert_cli.options import Dim, Exactness, Json, Precision, Preset, Quiet, Tolerance
from wnconvert_cli.texts import read_kept_dim


def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="The one checkpoint.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other.", show_default=False)],
    *,
    tolerance: Tolerance = 0.0,
    preset: Preset = None,
    precision: Exactness = Precision.runtime,
    dim: Dim = None,
    json: Json = False,
    quiet: Quiet = False,
    opening: Opening,
) -> None:
    """Compare what two checkpoints make a model compute with, weight by weight.

    Layouts, containers and the prefixes of training wrappers do not count: a file
    with weight_g and weight_v equals its folded one. The exit code is 4 if
    anything differs beyond the tolerance, or is in one of the files only.
    """
    from wnconvert.checkpoint import Reading, load
    from wnconvert.checkpoint.comparing.comparison import verify
    from wnconvert.checkpoint.layout import read_preset
    from wnconvert_cli import render

    kept = read_kept_dim(dim, "to compare")
    reading = Reading(kept, tuple(map(read_preset, preset or ())), precision.value)
    with render.progress(f"reading {first.name} and {second.name}"):
        files = [load(path, **opening.how) for path in (first, second)]
    for path, file in zip((first, second), files, strict=True):
        for note in () if quiet else file.notes:
            say("note", f"{str(path)!r}: {note}")
    with render.progress("comparing"):
        comparison = verify(files[0], files[1], tolerance=tolerance, reading=reading)
    if json:
        render.json({"first": str(first), "second": str(second), **comparison.to_dict()})
    elif not quiet:
        render.comparison(first, second, comparison)
    if not comparison.passed:
        raise typer.Exit(UNVERIFIED)
