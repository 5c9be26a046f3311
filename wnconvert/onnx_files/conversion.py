"""Fold the computed weights of an ONNX file or model, prove the outputs, and put the file in its place."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wnconvert.checkpoint import placing
from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.modes import Modes
from wnconvert.checkpoint.storage.opened import Opened, require_file
from wnconvert.checkpoint.storage.scratch import Scratch, scratch
from wnconvert.errors import CheckpointError, IncompleteError, NothingToConvertError, OutputError
from wnconvert.onnx_files.confined import confined
from wnconvert.onnx_files.needed import require_extra
from wnconvert.report import Report, summary

if TYPE_CHECKING:
    import onnx_ir as ir

    from wnconvert.selection import Selection

#: bytes of a model up to which it is searched for names; one with external data is small
_SEARCHED = 1 << 28


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        report: weight by weight; notes say what was compared, and the sizes.
        shapes: of the weights, by name.
        files: the names of the files that were written, the model last.
    """

    report: Report
    shapes: dict[str, tuple[int, ...]]
    files: tuple[str, ...] = ()


def fold(model: ir.Model, selection: Selection | None = None) -> tuple[ir.Model, Report]:
    """Return a copy of a model with its computed weights stored, and what was done.

    Raises:
        NothingToConvertError: no weight is computed.
    """
    require_extra()
    from wnconvert.onnx_files.folding import FoldWeightsPass

    copy = model.clone()
    result: Any = FoldWeightsPass(selection)(copy)
    if not result.modified:
        raise _nothing(result.report)
    return copy, result.report


def fold_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    *,
    selection: Selection | None = None,
    strict: bool = False,
    force: bool = False,
) -> Outcome:
    """Fold the computed weights of an ONNX file; the output appears whole or not at all, once its outputs are proven.

    Args:
        source: the file; its external data are beside it.
        output: the file to write, its external data beside it; None writes nothing, and proves nothing.
        selection: which weights; names of ops are those of ONNX.
        strict: refuse to write anything if a weight that was asked for is skipped.
        force: replace an existing file.

    Raises:
        CheckpointError: the input cannot be used.
        IncompleteError: with ``strict``, a weight is skipped.
        NothingToConvertError: no weight is computed.
        OutputError: the output cannot be written.
        VerificationError: the folded model gives other outputs.
    """
    require_extra()
    source = Path(source)
    require_file(source)
    if output is None:
        outcome: Outcome = confined(f"{__name__}:_fold", files_of(source), source, selection, strict, None, "")
        return outcome
    output = paths.named(Path(output))
    check_output(output, source, force=force)
    try:
        with scratch(output.parent) as room:
            return _write(room, source, output, selection, strict, force)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {error.strerror or error}") from error


def check_output(output: Path, source: Path, *, force: bool) -> None:
    """Check that a file, and the external data that it may have, can be written.

    Raises:
        OutputError: they cannot.
    """
    placing.check_output(output, source, force=force)
    placing.check_place(data_of(output), force=force, folder=False, like=source)


def data_of(output: Path) -> Path:
    """Return where the external data of an output go."""
    return output.with_name(f"{output.name}.data")


def _write(
    room: Scratch, source: Path, output: Path, selection: Selection | None, strict: bool, force: bool
) -> Outcome:
    """Make the output in the folder of the run, prove it, and place its data, then the file itself.

    Until the file has its name, nothing reads the data. Where those of an older output have the name, the new ones get
    another, so that there is always a whole model; the older ones are removed at the end.
    """
    folder = room.new("")
    data = data_of(output)
    if paths.kind(data) is not None:
        data = output.with_name(f"{output.name}.{secrets.token_hex(4)}.data")
    files = files_of(source)
    outcome: Outcome = confined(f"{__name__}:_fold", files, source, selection, strict, folder, output.name, data.name)
    made = [folder / name for name in outcome.files]
    proof = _prove(source, room.new(output.name), [*files, *made])
    report = outcome.report
    report = replace(report, notes=(proof, *report.notes))
    modes = Modes.of(Opened(source))
    for each in made:
        modes.give(each, ready=False)
        placing.sync(each)
    old = _own_data(output)
    placing.check_place(output, force=force, folder=False, like=source)
    for name in outcome.files:
        room.place(output.with_name(name))
        modes.give(output.with_name(name))
    placing.sync_one(output.parent)
    for each in old.difference(output.with_name(name) for name in outcome.files):
        each.unlink(missing_ok=True)
    return replace(outcome, report=report)


def _prove(source: Path, folded: Path, files: list[Path]) -> str:
    """Compare the outputs; a model that ends its process cannot be run, which says nothing against its weights."""
    try:
        return str(confined("wnconvert.onnx_files.proof:prove", files, source, folded, source.parent))
    except CheckpointError as error:
        return f"outputs were not compared: {error}"


def _own_data(output: Path) -> set[Path]:
    """Return the files of external data that an older output of this name has for itself."""
    names = (path.name for path in output.parent.glob(f"{_escaped(output.name)}.*data"))
    ends = (
        name for name in names if name.removeprefix(output.name).removesuffix(".data").strip(".0123456789abcdef") == ""
    )
    return {output.with_name(name) for name in ends if paths.kind(output.with_name(name)) == paths.FILE}


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def files_of(source: Path) -> list[Path]:
    """Return the files by which work on a model is confined: its own, and what may be its data.

    Those are named in the model, which is not parsed for that, or begin with its name.
    """
    there = b""
    with suppress(OSError):  # who reads it says why it cannot be read
        there = source.read_bytes() if source.stat().st_size <= _SEARCHED else b""
    beside = (path for path in source.parent.iterdir() if path != source and path.is_file())
    return [source, *(path for path in beside if path.name.startswith(source.name) or os.fsencode(path.name) in there)]


def _nothing(report: Report) -> NothingToConvertError:
    return NothingToConvertError(f"nothing to convert: {summary(report.skipped)}", report=report)


def _incomplete(report: Report) -> IncompleteError:
    counts = f"{len(report.converted)} converted, {len(report.missed)} NOT"
    return IncompleteError(f"{counts}: {summary(report.missed)}", report=report)


def _fold(
    source: Path, selection: Selection | None, strict: bool, folder: Path | None, name: str, data_name: str = ""
) -> Outcome:
    """Fold a file, and write the outcome into a folder, if there is one; this is called where it is confined."""
    from wnconvert.onnx_files.expressions import graphs_of
    from wnconvert.onnx_files.folding import FoldWeightsPass
    from wnconvert.onnx_files.reading import read
    from wnconvert.onnx_files.writing import require_held, write

    file = read(source)
    before = sum(len(nodes) for nodes in file.nodes.values()), file.bytes
    result: Any = FoldWeightsPass(selection)(file.model)
    if not result.modified:
        raise _nothing(result.report)
    if strict and result.report.missed:
        raise _incomplete(result.report)
    written = write(file, result, folder, name, data_name) if folder is not None else []
    if folder is not None:
        require_held(result, folder / name)
    after = sum(map(len, graphs_of(file.model)))
    bytes_after = sum((folder / each).stat().st_size for each in written) if folder is not None else None
    left = sum(1 for each in result.report.skipped if each.missed)
    notes = [f"{before[0]} nodes became {after}, and {left} weights are still computed"]
    if bytes_after is not None:
        notes.append(f"{before[1]} bytes became {bytes_after}, external data included")
    if result.renamed:
        old, new = next(iter(result.renamed.items()))
        what = (
            "1 weight that the exporter had computed"
            if len(result.renamed) == 1
            else (f"{len(result.renamed)} weights that the exporter had computed")
        )
        notes.append(f"{what} got back the name of the parameter: {old!r} is {new!r}")
    shapes = {
        value.name or "": tuple(value.const_value.shape.numpy())
        for value in result.values
        if value.const_value is not None
    }
    return Outcome(replace(result.report, notes=tuple(notes)), shapes, tuple(written))
