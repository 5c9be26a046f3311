"""What `apply`, `fold` and `migrate` have in common: read, convert, write with verification, show.

Nothing here imports torch before the first file is read, so that what is wrong without one is said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import typer

from wnconvert import checkpoint
from wnconvert.checkpoint.format import FORMATS
from wnconvert.checkpoint.placing import check_name
from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import IncompleteError, NothingToConvertError, OptionError, OutputError, WnconvertError
from wnconvert.report import Report
from wnconvert_cli import batch, elsewhere, models, onnx_models, render, streams
from wnconvert_cli.answer import Answer
from wnconvert_cli.destination import Destination
from wnconvert_cli.groups import Opening, Scope, Writing
from wnconvert_cli.lines import say
from wnconvert_cli.result import BLANK, Result
from wnconvert_cli.streams import STREAM

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint, Conversion
    from wnconvert.selection import WeightedOp

    #: the input, a conversion, and the check that the written file must pass.
    Proven: TypeAlias = tuple[Checkpoint, Conversion, Callable[[Checkpoint], None]]


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
        takes_onnx: whether ONNX models are among what it takes; none of the above is asked for these.
    """

    suffix: str | Callable[[Checkpoint], str]
    convert: Callable[[Checkpoint, list[WeightedOp] | None], Conversion]
    convert_model: Callable[[Any], Any]
    splits: bool = False
    verify: Callable[[Checkpoint, Conversion, Checkpoint], None] | None = None
    cause: str | None = None
    takes_onnx: bool = False

    def suffix_for(self, source: Checkpoint) -> str:
        """Return the suffix for what was read."""
        return self.suffix if isinstance(self.suffix, str) else self.suffix(source)


@dataclass(frozen=True)
class Call:
    """A task with what else the user asked for; it is carried out on one file after the other.

    Attributes:
        several: whether there are others beside the one, so that what is said names it.
        stdout: where the output goes if it is ``-``; None where it is not.
    """

    task: Task
    scope: Scope
    writing: Writing
    opening: Opening
    several: bool = False
    stdout: BinaryIO | None = None

    def __call__(self, file: Path, entry: dict[str, Any]) -> None:
        """Read a file, convert it, write and verify the output, and show what was done."""
        with streams.received(file) as path:
            self._work(file, path, entry)

    def _work(self, file: Path, path: Path, entry: dict[str, Any]) -> None:
        entry["device"] = self.scope.where.name
        if self.task.takes_onnx and onnx_models.is_one(path):
            self._fold_onnx(file, path, entry)
            return
        if self.writing.output not in (None, STREAM) and not self.writing.dry_run:
            _check_named(self.writing.output, path, force=self.writing.force)
        opened = Opened(path)
        container = checkpoint.recognise(opened)
        destination = Destination(path, container, self.writing, as_state_dict=self.opening.state_dict)
        entry["format"] = destination.target.title
        output = self._known_output(destination)
        with render.progress(f"reading {file.name}", quiet=self.writing.quiet):
            as_what = {"modules": "program"} if destination.is_program else {}
            source = destination.target().adopt(checkpoint.load(opened, **self.opening.how | as_what))
        if output is None:
            output = destination.beside(self.task.suffix_for(source))
            destination.check(output)
        if self.writing.json:
            entry["layouts"] = checkpoint.count_layouts(source)
        with render.progress("converting", quiet=self.writing.quiet):
            source, conversion, verify = self._convert(source, file, alone=destination.is_flattened)
        written = replace(conversion.checkpoint, origin=source.origin)
        notes = (*source.notes, *conversion.report.notes, *destination.notes(output, written))
        report = replace(conversion.report, notes=tuple(dict.fromkeys(notes)))
        self._warn(report, file, entry)
        if not self.writing.dry_run:
            how: dict[str, Any] = {"force": self.writing.force, "trust": self.opening.trust, "verify": verify}
            shown = render.advancing(f"writing and verifying {output.name}", quiet=self.writing.quiet)
            with shown as tell, streams.sent(output, self.stdout) as place:
                checkpoint.save(written, place, source=path, progress=tell, **how)
        result = Result(
            source=file,
            output=output,
            format=destination.target.title,
            report=report,
            shapes=models.shapes_of(report, *(each.content for each in (written, source))),
            dry_run=self.writing.dry_run,
            record=destination.record(output, written),
            loads_into=checkpoint.Conversion(written, report).loads_into,
        )
        entry |= result.to_dict() if self.writing.json else result.to_summary()
        self._show(result)

    def _fold_onnx(self, file: Path, path: Path, entry: dict[str, Any]) -> None:
        onnx_models.check(self.scope, self.writing, self.opening)
        entry["format"] = onnx_models.TITLE
        output = self.writing.output or onnx_models.beside(path, str(self.task.suffix), self.writing)
        try:
            with render.progress(f"folding {file.name} and comparing outputs", quiet=self.writing.quiet):
                outcome = onnx_models.fold(path, output, self.scope, self.writing)
        except NothingToConvertError as error:
            raise self._strictly(error) from error
        self._warn(outcome.report, file, entry)
        result = Result(file, output, onnx_models.TITLE, outcome.report, outcome.shapes, self.writing.dry_run)
        entry |= result.to_dict() if self.writing.json else {"missed": len(outcome.report.missed)}
        self._show(result)

    def _known_output(self, destination: Destination) -> Path | None:
        """Return where the output goes, having checked it; None where only the content of the file tells."""
        suffix = self.task.suffix
        output = self.writing.output or (destination.beside(suffix) if isinstance(suffix, str) else None)
        if output is not None:
            destination.check(output)
        return output

    def _convert(self, source: Checkpoint, file: Path, *, alone: bool) -> Proven:
        try:
            if models.is_program(source.content):
                return _convert_program(self.task, source, file, self.scope)
            if models.is_model(source.content):
                return _convert_model(self.task, source, file, self.scope)
            return _convert_tensors(self.task, source, file, self.scope, alone=alone)
        except NothingToConvertError as error:
            raise self._strictly(error) from error

    def _strictly(self, error: NothingToConvertError) -> NothingToConvertError | IncompleteError:
        """Return what is wrong where nothing was converted: strictly, that something was asked for."""
        if self.writing.strict and error.report and error.report.missed:
            return IncompleteError(str(error), report=error.report)
        return error

    def _warn(self, report: Report, file: Path, entry: dict[str, Any]) -> None:
        """Say, before anything is written, what is not as the user may think; strictly, refuse what is not complete.

        Raises:
            IncompleteError: something that was asked for is skipped, and nothing may be.
        """
        if report.missed and self.writing.strict:
            raise IncompleteError(f"{render.counts(report)}: {checkpoint.summary(report.missed)}", report=report)
        if not report.exact:
            entry["warnings"] = [_inexact(self.task, report)]
        for text in entry["warnings"]:
            self._say("warning", text, file)

    def _show(self, result: Result) -> None:
        for note in () if self.writing.quiet else result.report.notes:
            self._say("note", note, result.source)
        if self.writing.json:
            return
        if self.writing.quiet:
            if result.report.missed:
                self._say("warning", render.counts(result.report), result.source)
        elif self.several:
            render.one_of_several(result)
        else:
            render.conversion(result)
            render.partial(result.report)

    def _say(self, kind: str, text: str, file: Path) -> None:
        say(kind, f"{str(file)!r}: {text}" if self.several else text)


def run(task: Task, files: Sequence[Path], scope: Scope, writing: Writing, opening: Opening, answer: Answer) -> None:
    """Carry out a task on each file, show what was done, and end with the worst exit code.

    Raises:
        OptionError: the outputs of two inputs would be one, or an output is another input.
    """
    inputs = batch.expand(files)
    if STREAM in files and not (writing.output or writing.output_dir):
        writing = replace(writing, output=STREAM)
    answer.aside = writing.output == STREAM and not writing.dry_run
    with streams.reserved() if answer.aside else nullcontext() as stdout:
        call = Call(task, scope, writing, opening, several=len(inputs) > 1, stdout=stdout)
        if STREAM in files and (call.several or writing.output_dir):
            raise OptionError("input '-' is standard input, which has no name; give it alone, and the output with -o")
        _check(call)
        if call.several:
            _check_outputs(call, [each.path for each in inputs if each.problem is None])
            if scope.model:
                models.build(scope.model)  # what is wrong with it is told once; each file gets one of its own
        ended = batch.each(inputs, call, answer, **BLANK)
        if call.several and not (writing.json or writing.quiet):
            render.loaders(answer.files)
            render.all_of(answer.files, ended)
    if answer.exit_code:
        raise typer.Exit(answer.exit_code)


def _check(call: Call) -> None:
    """Check what is asked for, as far as that needs no look into any file; and no torch, but for another device."""
    writing, scope = call.writing, call.scope
    if scope.op and not scope.model and not call.opening.trust:
        raise OptionError("--op needs --model: a state dict does not say which op reads a weight")
    if writing.format:
        FORMATS.require(writing.format)
    if writing.output and writing.output_dir:
        raise OptionError("-o names the output, and --output-dir the folder that it is in; give one of the two")
    if writing.output and call.several:
        raise OptionError(f"-o is {str(writing.output)!r}, but there are several inputs; give a folder (--output-dir)")
    if writing.output_dir and not writing.output_dir.is_dir():
        raise OutputError(f"--output-dir is {str(writing.output_dir)!r}, which is no existing folder; create it first")
    _ = scope.where  # tried once, before anything is read


def _check_named(output: Path, source: Path, *, force: bool) -> None:
    """Check of the output that the user names what shows before it is known what it will be, which needs no torch."""
    check_name(output, source, force=force)
    if not force and paths.kind(paths.named(output)) == paths.FOLDER:
        way_out = "give --output-dir to write into it, or --force to replace a checkpoint folder"
        raise OutputError(f"output {str(output)!r} is a directory that exists; {way_out}")


def _check_outputs(call: Call, files: Sequence[Path]) -> None:
    """Check that no two outputs are one, and that none is an input; that takes the kind of each file."""
    writing = call.writing
    outputs = [(file, output) for file in files if (output := _foreseen(call, file))]
    if pair := batch.colliding(outputs):
        first, second = map(repr, map(str, pair))
        raise OptionError(f"{first} and {second} would have the same output; convert one of them with -o")
    inputs = {paths.real(file): file for file in files}
    for file, output in outputs:
        if writing.force and (other := inputs.get(paths.real(output))):
            raise OptionError(f"the output of {str(file)!r} would be the input {str(other)!r}; leave one of them out")


def _foreseen(call: Call, file: Path) -> Path | None:
    """Return the output of a file, as far as its name and kind tell; None where it cannot be read at all."""
    suffix = call.task.suffix
    if call.task.takes_onnx and onnx_models.is_one(file):
        return onnx_models.beside(file, str(suffix), call.writing)
    try:
        container = checkpoint.recognise(file)
        destination = Destination(file, container, call.writing, as_state_dict=call.opening.state_dict)
        return destination.beside(suffix if isinstance(suffix, str) else "*")
    except (WnconvertError, OSError):
        return None


def _convert_tensors(task: Task, source: Checkpoint, file: Path, scope: Scope, *, alone: bool) -> Proven:
    """Return state dicts converted; the chosen one by itself, if the output holds no others."""
    if scope.op and not scope.model:
        raise OptionError("--op needs --model: a state dict does not say which op reads a weight")
    if not scope.model:
        conversion = task.convert(source, None)
    else:
        model = models.build(scope.model)
        plain = models.plain(model)
        if task.splits:
            models.require_fit((plain, model), source, file)
        conversion = task.convert(source, models.weighted_ops(plain, scope.selection))
        if not task.splits and not conversion.report.skipped:
            models.require_fit((plain,), conversion.checkpoint, file)
    if alone and scope.only:
        source, conversion = checkpoint.alone(source, conversion, scope.only)
    if task.verify is None:
        return source, conversion, partial(checkpoint.verify_content, conversion.checkpoint)
    return source, conversion, partial(task.verify, source, conversion)


def _convert_model(task: Task, source: Checkpoint, file: Path, scope: Scope) -> Proven:
    """Return a whole model converted."""
    converted = _convert_whole(task, source, file, scope, "model", ops=task.splits)
    report = converted.report

    def verify(written: Checkpoint) -> None:
        checkpoint.verify_content(converted.checkpoint, written)
        models.verify_keys(written.content, report, splits=task.splits)
        if task.splits and report.exact:
            there = elsewhere.copied(written.content, scope.where)
            scope.where.run(models.verify_weights, source.content, there, report)

    return source, converted, verify


def _convert_program(task: Task, source: Checkpoint, file: Path, scope: Scope) -> Proven:
    """Return a program converted; the written one must hold the same tensors, and compute the same.

    Raises:
        OptionError: another device is wanted; calls of a program may name its own.
    """
    if not scope.where.is_cpu:
        way_out = "leave out --device, or move it first (torch.export.passes.move_to_device_pass)"
        raise OptionError(f"{str(file)!r} holds a program, which computes where its own tensors are; {way_out}")
    converted = _convert_whole(task, source, file, scope, "program", ops=True)

    def verify(written: Checkpoint) -> None:
        from wnconvert.exported.proof import require_equal

        require_equal(converted.checkpoint.content, written.content)

    return source, converted, verify


def _convert_whole(task: Task, source: Checkpoint, file: Path, scope: Scope, what: str, *, ops: bool) -> Conversion:
    """Return what a file holds converted, where that says itself what its weights are."""
    if scope.model:
        raise OptionError(f"{str(file)!r} holds the {what} itself; leave out --model")
    if ops and scope.op:
        models.weighted_ops(source.content, scope.selection)
    if models.is_program(source.content):
        made, report = task.convert_model(source.content)
    else:
        made, report = elsewhere.converted(task.convert_model, source.content, scope.where, splits=task.splits)
        report = replace(report, notes=(*scope.where.notes, *report.notes))
    if not report.modified:
        raise NothingToConvertError(f"nothing to convert: {checkpoint.summary(report.skipped)}", report=report)
    return checkpoint.Conversion(replace(source, content=made), report)


def _inexact(task: Task, report: Report) -> str:
    if report.fused:
        return "fused normalizations are not exact: the weights that took them in are computed anew, and rounded once"
    most = max(entry.max_abs_error for entry in report.converted)
    schemes = ", ".join(dict.fromkeys(entry.scheme for entry in report.converted if entry.max_abs_error))
    cause = task.cause or f"{schemes} does not preserve the function"
    return f"{cause}: elements of the weights change by up to {most:.3g}"
