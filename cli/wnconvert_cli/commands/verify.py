"""``wnconvert verify``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wnconvert_cli.answer import Answer
from wnconvert_cli.exits import DONE, UNVERIFIED
from wnconvert_cli.groups import Opening
from wnconvert_cli.lines import say
from wnconvert_cli.options import Device, Dim, Exactness, Json, Precision, Preset, Quiet, Tolerance
from wnconvert_cli.texts import read_device, read_kept_dim

if TYPE_CHECKING:
    from wnconvert.checkpoint import Comparison


def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="The one checkpoint.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other.", show_default=False)],
    *,
    tolerance: Tolerance = 0.0,
    preset: Preset = None,
    precision: Exactness = Precision.runtime,
    dim: Dim = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
    opening: Opening,
    answer: Answer,
) -> None:
    """Compare what two checkpoints make a model compute with, weight by weight.

    Layouts, containers and the prefixes of training wrappers do not count: a file
    with weight_g and weight_v equals its folded one. The exit code is 4 if
    anything differs beyond the tolerance, or is in one of the files only.
    """
    from wnconvert import checkpoint
    from wnconvert.checkpoint.layout import read_preset
    from wnconvert.checkpoint.storage.opened import require_file
    from wnconvert.errors import OptionError
    from wnconvert_cli import onnx_models, render, streams

    kept_dim, presets = read_kept_dim(dim, "to compare"), tuple(map(read_preset, preset or ()))
    where = read_device(device)
    answer.body["comparison"] = None
    entries = [answer.open(path, format=None, layouts={}, notes=[]) for path in (first, second)]
    if first == second == streams.STREAM:
        raise OptionError("both are '-', but there is one standard input; give a file")
    for path in (first, second):
        if path != streams.STREAM:
            require_file(path)
    answer.body["device"] = where.name
    if onnx_models.is_one(first) and onnx_models.is_one(second):
        onnx_models.require_cpu(where)
        with render.progress("comparing", quiet=quiet):
            comparison = onnx_models.compare(first, second, tolerance, opening)
        for entry in entries:
            entry |= {"format": onnx_models.TITLE, "exit_code": DONE}
        _tell(first, second, comparison, answer, quiet=json or quiet)
        return
    files = []
    with ExitStack() as kept:  # what came by a stream is kept until it is compared
        with render.progress(f"reading {first.name} and {second.name}", quiet=quiet):
            for path, entry in zip((first, second), entries, strict=True):
                given = kept.enter_context(streams.received(path))
                files.append(file := checkpoint.load(given, **opening.how))
                entry |= {"format": checkpoint.FORMATS.get(file.format).title, "notes": list(file.notes)}
                entry |= {"layouts": checkpoint.count_layouts(file) if json else {}, "exit_code": DONE}
        for path, file in zip((first, second), files, strict=True):
            for note in () if quiet else file.notes:
                say("note", f"{str(path)!r}: {note}")
        with render.progress("comparing", quiet=quiet):
            reading = checkpoint.Reading(kept_dim, presets, precision.value, where)
            for note in () if quiet else where.notes:
                say("note", note)
            comparison = checkpoint.verify(files[0], files[1], tolerance=tolerance, reading=reading)
    _tell(first, second, comparison, answer, quiet=json or quiet)


def _tell(first: Path, second: Path, comparison: Comparison, answer: Answer, *, quiet: bool) -> None:
    """Show a comparison, and end with its exit code."""
    from wnconvert_cli import render

    answer.body["comparison"] = comparison.to_dict()
    if not quiet:
        render.comparison(first, second, comparison)
    if not comparison.passed:
        count = len(comparison.differing) + len(comparison.only_first) + len(comparison.only_second)
        answer.fail(UNVERIFIED, "Different", f"{count} tensors differ, or are in one of the files only")
        raise typer.Exit(UNVERIFIED)
