"""What `apply` and `fold` have in common: read, convert, write with verification, show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wnconvert_cli import models
from wnconvert_cli.lines import say
from wnconvert_cli.result import Result

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint, Conversion, Format, Layout
    from wnconvert.checkpoint.weights.outcome import DimOrDefault
    from wnconvert.report import Report
    from wnconvert.selection import Selection, WeightedOp


#: how the names of index files end.
INDEXES = (".safetensors.index.json", ".bin.index.json", ".index.json")


@dataclass(frozen=True)
class Job:
    """What the user asked for, whichever the command.

    Attributes:
        suffix: what the default output has before its extension, or what tells that by the content of the file.
        file: converts the content of a file, given the ops of ``--model``.
        model: converts a whole module; returns the new one and the report.
        splits: whether parts are made, so that folding the output must give the input back.
        modules: what becomes of whole modules in the file.
        to_format: name of the container to write; by default that of the input.
        layout: the layout of other software that the parts are spelled in.
        dim: the kept dim that the user gave with it.
    """

    source: Path
    output: Path | None
    force: bool
    selection: Selection
    model_spec: str | None
    trust: bool
    dry_run: bool
    json: bool
    quiet: bool
    suffix: str | Callable[[Checkpoint], str]
    splits: bool
    file: Callable[[Checkpoint, list[WeightedOp] | None], Conversion]
    model: Callable[[Any], Any]
    modules: Literal["module", "state_dict"] = "module"
    to_format: str | None = None
    layout: Layout | None = None
    dim: DimOrDefault = "default"


def run(job: Job) -> None:
    """Do the job."""
    from wnconvert.checkpoint import FORMATS, load, recognise, sidecar
    from wnconvert.errors import OptionError
    from wnconvert_cli import render

    source = recognise(job.source)
    target = FORMATS.get(job.to_format or source.name)
    if target.not_written:
        raise OptionError(f"{target.title} is read, but not written: {target.not_written}")
    extension = _extension(job.source, source, target)
    output = job.output or (default_output(job.source, job.suffix, extension) if isinstance(job.suffix, str) else None)
    if output:
        _check(job, output, target)
    with render.progress(f"reading {job.source.name}"):
        checkpoint = _as(load(job.source, trust=job.trust, modules=job.modules), target)
    if output is None:
        suffix = job.suffix if isinstance(job.suffix, str) else job.suffix(checkpoint)
        output = default_output(job.source, suffix, extension)
        _check(job, output, target)
    with render.progress("converting"):
        conversion, verify = _convert(job, checkpoint)
    written = replace(conversion.checkpoint, origin=checkpoint.origin)
    _warn(job, conversion.report)
    if not job.dry_run:
        _write(job, written, output, verify)
    shapes = models.shapes_in((checkpoint if job.splits else written).content)
    record = sidecar.place(output) if sidecar.is_used_by(target) and conversion.checkpoint.metadata else None
    notes = tuple(dict.fromkeys((*checkpoint.notes, *conversion.report.notes)))
    result = Result(
        job.source, output, target.title, replace(conversion.report, notes=notes), shapes, job.dry_run, record
    )
    for note in () if job.quiet else notes:
        say("note", note)
    if job.json:
        render.json(result.to_dict())
    elif not job.quiet:
        render.conversion(result)


def default_output(source: Path, suffix: str, extension: str | None = None) -> Path:
    """Return ``model.weight_norm.pt`` for ``model.pt``; a name without an extension gets the suffix at its end.

    Args:
        source: the input.
        suffix: what was done.
        extension: the extension of the output; by default that of the input.
    """
    own = source.suffix if source.suffix[1:2].isalpha() and not source.is_dir() else ""
    own = next((index for index in INDEXES if source.name.endswith(index)), own)
    stem = source.name[: len(source.name) - len(own)]
    return source.with_name(f"{stem}.{suffix}{own if extension is None else extension}")


def _extension(path: Path, source: Format, target: type[Format]) -> str | None:
    """Return the extension of the default output, or None for that of the input."""
    if target.folder:
        return ""
    return None if type(source) is target or path.suffix in target.suffixes else next(iter(target.suffixes), "")


def _as(checkpoint: Checkpoint, target: type[Format]) -> Checkpoint:
    """Return a checkpoint as another container has it. What else reads safetensors asks for a word in the metadata."""
    if checkpoint.format == target.name:
        return checkpoint
    metadata = dict(checkpoint.metadata)
    if target.name.startswith(("safetensors", "model_folder")):
        metadata = {"format": "pt", **metadata}
    elif not target.annotated:  # it is not worth a file of its own
        metadata.pop("format", None)
    return replace(checkpoint, format=target.name, metadata=metadata)


def _check(job: Job, output: Path, target: type[Format]) -> None:
    """Check that the output may have that name."""
    from wnconvert.checkpoint import check_output

    _check_suffix(output, target)
    if not job.dry_run:
        check_output(output, job.source, force=job.force, folder=target.folder)


def _check_suffix(output: Path, own: type[Format]) -> None:
    from wnconvert.checkpoint import FORMATS
    from wnconvert.errors import OptionError

    others = [FORMATS.get(name) for name in FORMATS if output.suffix in FORMATS.get(name).suffixes]
    if others and own not in others:
        raise OptionError(f"output {str(output)!r} is named like {others[0].title}, but it will be {own.title}")


def _convert(job: Job, checkpoint: Checkpoint) -> tuple[Conversion, Callable[[Checkpoint], None]]:
    """Return the conversion, and the check that the written file must pass."""
    from torch import nn

    from wnconvert.errors import OptionError

    if isinstance(checkpoint.content, nn.Module):
        if job.model_spec:
            raise OptionError(f"{str(job.source)!r} holds the model itself; leave out --model")
        return _convert_module(job, checkpoint)
    if job.selection.ops and not job.model_spec:
        raise OptionError("--op needs --model: a state dict does not say which op reads a weight")
    return _convert_file(job, checkpoint)


def _convert_file(job: Job, checkpoint: Checkpoint) -> tuple[Conversion, Callable[[Checkpoint], None]]:
    from wnconvert.checkpoint import verify_apply, verify_content, verify_unfold

    if not job.model_spec:
        conversion = job.file(checkpoint, None)
    else:
        model = models.build(job.model_spec)
        if job.splits:
            models.require_fit(model, checkpoint, job.source)
        conversion = job.file(checkpoint, models.weighted_ops(model, job.selection))
        if not job.splits and not conversion.report.skipped:
            models.require_fit(model, conversion.checkpoint, job.source)
    if job.layout is not None:
        layout = job.layout
        return conversion, lambda written: verify_unfold(checkpoint, conversion, written, layout, job.dim)
    if job.splits:
        return conversion, lambda written: verify_apply(checkpoint, conversion, written)
    return conversion, lambda written: verify_content(conversion.checkpoint, written)


def _convert_module(job: Job, checkpoint: Checkpoint) -> tuple[Conversion, Callable[[Checkpoint], None]]:
    from wnconvert.checkpoint import Conversion, summary, verify_content
    from wnconvert.errors import NothingToConvertError

    source = checkpoint.content
    if job.splits and job.selection.ops:
        models.weighted_ops(source, job.selection)
    model, report = job.model(source)
    if not report.modified:
        raise NothingToConvertError(f"nothing to convert: {summary(report.skipped)}")
    converted = replace(checkpoint, content=model)

    def verify(written: Checkpoint) -> None:
        verify_content(converted, written)
        models.verify_keys(written.content, report, splits=job.splits)
        if job.splits and report.exact:
            models.verify_weights(source, written.content, report)

    return Conversion(converted, report), verify


def _write(job: Job, checkpoint: Checkpoint, output: Path, verify: Callable[[Checkpoint], None]) -> None:
    from wnconvert.checkpoint import save
    from wnconvert_cli import render

    with render.progress(f"writing and verifying {output.name}"):
        save(checkpoint, output, source=job.source, force=job.force, trust=job.trust, verify=verify)


def _warn(job: Job, report: Report) -> None:
    """Say on stderr, before anything is written, that weights change."""
    if report.exact:
        return
    most = max(entry.max_abs_error for entry in report.converted)
    how = f"layout {job.layout.name} gives weights back up to rounding" if job.layout else None
    names = ", ".join(dict.fromkeys(entry.scheme for entry in report.converted if entry.max_abs_error))
    changes = how or f"{names} does not preserve the function"
    say("warning", f"{changes}: elements of the weights change by up to {most:.3g}")
