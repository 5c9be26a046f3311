"""What `apply`, `fold` and `migrate` have in common: read, convert, write with verification, show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from wnconvert import checkpoint
from wnconvert.checkpoint import Checkpoint, Conversion
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.report import Report
from wnconvert.selection import WeightedOp
from wnconvert_cli import models, render
from wnconvert_cli.destination import Destination
from wnconvert_cli.groups import Opening, Scope, Writing
from wnconvert_cli.lines import say
from wnconvert_cli.result import Result

#: a conversion, and the check that the written file must pass.
Proven: TypeAlias = tuple[Conversion, Callable[[Checkpoint], None]]


@dataclass(frozen=True)
class Task:
    """What a command makes of a file.

    Attributes:
        suffix: what the default output has before its extension, or what tells that by the content of the file.
        convert: converts state dicts, given the ops of ``--model``.
        convert_model: converts a whole model; returns the new one and the report.
        splits: whether parts are made, so that folding the output must give the input back.
        verify: checks what was read back, given the input and the conversion; by default, that it is the conversion.
        cause: why weights change; by default the schemes are to blame.
    """

    suffix: str | Callable[[Checkpoint], str]
    convert: Callable[[Checkpoint, list[WeightedOp] | None], Conversion]
    convert_model: Callable[[Any], Any]
    splits: bool = False
    verify: Callable[[Checkpoint, Conversion, Checkpoint], None] | None = None
    cause: str | None = None

    def suffix_for(self, source: Checkpoint) -> str:
        """Return the suffix for what was read."""
        return self.suffix if isinstance(self.suffix, str) else self.suffix(source)


def run(task: Task, file: Path, scope: Scope, writing: Writing, opening: Opening) -> None:
    """Read a file, convert it, write and verify the output, and show what was done."""
    opened = Opened(file)
    destination = Destination(file, checkpoint.recognise(opened), writing)
    output = writing.output or (destination.beside(task.suffix) if isinstance(task.suffix, str) else None)
    if output:
        destination.check(output)
    with render.progress(f"reading {file.name}"):
        source = destination.target().adopt(checkpoint.load(opened, **opening.how))
    if not output:
        output = destination.beside(task.suffix_for(source))
        destination.check(output)
    with render.progress("converting"):
        convert = _convert_model if models.is_model(source.content) else _convert_tensors
        conversion, verify = convert(task, source, file, scope)
    _warn(task, conversion.report)
    written = replace(conversion.checkpoint, origin=source.origin)
    if not writing.dry_run:
        with render.progress(f"writing and verifying {output.name}"):
            checkpoint.save(written, output, source=file, force=writing.force, trust=opening.trust, verify=verify)
    result = Result(
        source=file,
        output=output,
        format=destination.target.title,
        report=replace(conversion.report, notes=tuple(dict.fromkeys((*source.notes, *conversion.report.notes)))),
        shapes=models.shapes_in((source if task.splits else written).content),
        dry_run=writing.dry_run,
        record=destination.record(output, written),
    )
    for note in () if writing.quiet else result.report.notes:
        say("note", note)
    if writing.json:
        render.json(result.to_dict())
    elif not writing.quiet:
        render.conversion(result)


def _convert_tensors(task: Task, source: Checkpoint, file: Path, scope: Scope) -> Proven:
    """Return state dicts converted."""
    if scope.op and not scope.model:
        raise OptionError("--op needs --model: a state dict does not say which op reads a weight")
    if not scope.model:
        conversion = task.convert(source, None)
    else:
        model = models.build(scope.model)
        if task.splits:
            models.require_fit(model, source, file)
        conversion = task.convert(source, models.weighted_ops(model, scope.selection))
        if not task.splits and not conversion.report.skipped:
            models.require_fit(model, conversion.checkpoint, file)
    if task.verify is None:
        return conversion, partial(checkpoint.verify_content, conversion.checkpoint)
    return conversion, partial(task.verify, source, conversion)


def _convert_model(task: Task, source: Checkpoint, file: Path, scope: Scope) -> Proven:
    """Return a whole model converted."""
    if scope.model:
        raise OptionError(f"{str(file)!r} holds the model itself; leave out --model")
    if task.splits and scope.op:
        models.weighted_ops(source.content, scope.selection)
    model, report = task.convert_model(source.content)
    if not report.modified:
        raise NothingToConvertError(f"nothing to convert: {checkpoint.summary(report.skipped)}")
    converted = replace(source, content=model)

    def verify(written: Checkpoint) -> None:
        checkpoint.verify_content(converted, written)
        models.verify_keys(written.content, report, splits=task.splits)
        if task.splits and report.exact:
            models.verify_weights(source.content, written.content, report)

    return Conversion(converted, report), verify


def _warn(task: Task, report: Report) -> None:
    """Say on stderr, before anything is written, that weights change."""
    if report.exact:
        return
    most = max(entry.max_abs_error for entry in report.converted)
    schemes = ", ".join(dict.fromkeys(entry.scheme for entry in report.converted if entry.max_abs_error))
    cause = task.cause or f"{schemes} does not preserve the function"
    say("warning", f"{cause}: elements of the weights change by up to {most:.3g}")
