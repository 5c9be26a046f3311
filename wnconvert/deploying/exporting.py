"""From a model to what is shipped: fold, fuse if asked to, export, compare with the model, and only then place it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from wnconvert import api
from wnconvert.checkpoint import placing
from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.scratch import scratch
from wnconvert.deploying.inputs import Example, for_torch, names_of
from wnconvert.deploying.proof import Compared, Reference, prove
from wnconvert.deploying.quiet import quiet
from wnconvert.deploying.target import DimNames, Target, Written, target_of
from wnconvert.errors import (
    IncompleteError,
    KindError,
    NothingToConvertError,
    OptionError,
    OutputError,
    TracingError,
    VerificationError,
    WnconvertError,
    described,
)
from wnconvert.graph.copying import clone
from wnconvert.report import Report


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        output: the file.
        target: what it is.
        report: what was folded and fused, and what was not.
        normalizations: how many weights were computed before, and how many still are.
        weights: the names of the parameters in the artifact, where it has names.
        counts: what there is to count in the artifact, by name.
        inputs: the sizes of each input; those that may change by name or symbol, with their bounds.
        bytes: the size of its files.
        compared: how its outputs compare with the model's.
    """

    output: Path
    target: str
    report: Report
    normalizations: tuple[int, int]
    weights: tuple[str, ...]
    counts: Mapping[str, int]
    inputs: Mapping[str, str]
    bytes: int
    compared: Compared

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain data, ready for JSON."""
        before, after = self.normalizations
        return {
            "output": str(self.output),
            "format": self.target,
            "normalizations": {"before": before, "after": after},
            "weights": self.weights,
            "counts": dict(self.counts),
            "inputs": dict(self.inputs),
            "bytes": self.bytes,
            "compared": vars(self.compared),
            **self.report.to_dict(),
        }

    @property
    def warning(self) -> str | None:
        """What is not as was wanted: that weights are computed still, and why."""
        before, after = self.normalizations
        return _still_computed(after, before, self.report) if after else None

    def __str__(self) -> str:
        before, after = self.normalizations
        return f"{self.output}: {self.target}, {before} normalized weights before, {after} after"


def export(
    model: nn.Module | ExportedProgram,
    output: str | os.PathLike[str],
    example_inputs: tuple[Any, ...] | Example | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    fusions: Iterable[str] | None = (),
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
    source: str | os.PathLike[str] | None = None,
) -> Export:
    """Write what is shipped: ``model`` folded, in evaluation mode, as the suffix of ``output`` says.

    ``.pt2`` is a program of `torch.export`, ``.onnx`` a model of ONNX with the names of the weights, ``.aoti.pt2`` a
    package of AOTInductor, ``.pte`` a program of ExecuTorch for XNNPACK. It appears once it was run beside ``model`` on
    inputs of several sizes, and its outputs were close; else not at all. ``model`` is left as it is.

    Args:
        model: any module that `torch.export.export` takes once it is folded, or a program.
        output: the file to write.
        example_inputs: positional arguments of a call; a program has its own.
        kwargs: arguments by name.
        dynamic_shapes: which dims are dynamic, as in `torch.export.export`; a text is a dim of that name:
            ``{"x": {2: "T"}}``.
        fusions: names of fusions for `wnconvert.fuse`, or None for all; by default, nothing is fused.
        strict: refuse to write what still computes a weight.
        force: replace an existing file.
        dry_run: do all that, and let nothing appear.
        source: the file that ``model`` is from, which is never replaced.

    Returns:
        what was done.

    Raises:
        CopyError: the model cannot be copied.
        IncompleteError: with ``strict``, a weight cannot be folded.
        KindError: it is neither a module nor a program.
        NothingToConvertError: nothing was to be fused.
        OptionError: the suffix says nothing, what it needs is not installed, or a module comes without inputs.
        OutputError: the file exists, or cannot be written.
        TracingError: the model cannot be exported, or its program not be translated.
        VerificationError: what was written computes something else.
    """
    output = paths.named(Path(output))
    target = target_of(output)
    target.require()
    placing.check_name(output, None if source is None else Path(source), force=force)
    placing.check_place(output, force=force, folder=False, like=output)
    example = (
        example_inputs if isinstance(example_inputs, Example) else _example(example_inputs, kwargs, dynamic_shapes)
    )
    program, report, before = _program(model, example)
    if fusions is None or (fusions := tuple(fusions)):
        program, fused = api.fuse(program, fusions, inplace=True)
        report = replace(report, fused=fused.fused, measured=fused.measured, notes=(*report.notes, *fused.notes))
    program, left, more = _folded(program)
    report += more
    total = before + len(more.converted) + left
    if strict and left:
        raise IncompleteError(_still_computed(left, total, report), report=report)
    dims = names_of(example.dynamic_shapes, program.graph_signature.user_inputs) if example else {}
    reference = Reference(_as_it_runs(model), program)
    with _placed(output, force=force, dry_run=dry_run) as path:
        written = _write(target, program, path, dims)
        compared = prove(reference, _load(target, path, program), program, seeded=target.seeded)
        size = sum(each.stat().st_size for each in path.parent.iterdir())
    inputs = _inputs(program, dims)
    return Export(output, target.title, report, (total, left), *written, inputs, size, compared)


def _example(args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Example | None:
    return None if args is None and not kwargs else Example(args or (), dict(kwargs or {}), dynamic_shapes)


def _program(model: Any, example: Example | None) -> tuple[ExportedProgram, Report, int]:
    """Return the program of the folded model, what was folded, and how many weights that were."""
    if isinstance(model, ExportedProgram):
        return model, Report(), 0
    if not isinstance(model, nn.Module):
        raise KindError(f"model is a {type(model).__name__}, not a torch.nn.Module or an ExportedProgram")
    if example is None:
        raise OptionError("a module is exported on example inputs, and there are none; give them, or their shapes")
    try:
        folded, report = api.fold(model)
    except NothingToConvertError:
        folded, report = clone(model), Report()
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                folded.eval(), example.args, example.kwargs, dynamic_shapes=for_torch(example.dynamic_shapes)
            )
    except Exception as error:
        raise TracingError(f"torch.export does not export the model: {_reason(error)}") from error
    # what is a plain weight in the graph is what was wanted
    report = replace(report, skipped=tuple(each for each in report.skipped if each.missed))
    return program, report, len(report.converted)


def _folded(program: ExportedProgram) -> tuple[ExportedProgram, int, Report]:
    """Return a program without the normalizations that are in it still, how many are left, and what was done."""
    try:
        folded, report = api.fold(program, inplace=True)
    except NothingToConvertError as error:
        folded, report = program, error.report or Report()
    left = tuple(each for each in report.skipped if each.keys and not each.already)
    return (folded if report.modified else program), len(left), replace(report, skipped=left, notes=())


def _still_computed(left: int, total: int, report: Report) -> str:
    reasons = "; ".join(dict.fromkeys(str(each.reason) for each in report.skipped))
    return f"{left} of {total} weights are computed in the output still: {reasons}"


def _as_it_runs(model: nn.Module | ExportedProgram) -> nn.Module | ExportedProgram:
    return model if isinstance(model, ExportedProgram) else clone(model).eval()


def _write(target: Target, program: ExportedProgram, path: Path, dims: DimNames) -> Written:
    try:
        with quiet():
            return target.write(program, path, dims)
    except (OSError, WnconvertError):
        raise
    except Exception as error:
        raise TracingError(f"{target.title} cannot be written of the model: {_reason(error)}") from error


def _load(target: Target, path: Path, program: ExportedProgram) -> Any:
    try:
        return target.load(path, program)
    except Exception as error:
        raise VerificationError(f"what was written does not load: {described(error)}; nothing was kept") from error


def _reason(error: Exception) -> str:
    """Return what somebody else's code says is wrong, from where it was wrong first."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    # of what is wrong with dims, torch says in the first line only that there is something
    details = [line.strip().removeprefix("- ") for line in str(error).splitlines() if line.strip().startswith("- ")]
    return f"{described(error)} {details[0]}" if details else described(error)


@contextmanager
def _placed(output: Path, *, force: bool, dry_run: bool) -> Iterator[Path]:
    """Give where to write; all that is there then gets its place, the file itself at last."""
    try:
        with scratch(Path(tempfile.gettempdir()) if dry_run else output.parent) as room:
            path = room.new(output.name)
            yield path
            if dry_run:
                return
            written = sorted(path.parent.iterdir(), key=lambda each: (each.name == output.name, each.name))
            for each in written:
                placing.sync(each)
                placing.check_place(output.with_name(each.name), force=force, folder=False, like=each)
            placing.sync_one(room.path)
            for each in written:
                room.place(output.with_name(each.name))
            placing.sync_one(output.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {(error.strerror or str(error)).lower()}") from error


def _inputs(program: ExportedProgram, dims: DimNames) -> dict[str, str]:
    """Return what a program takes, ``{"x": "1,80,T(8..)"}``."""
    taken = {}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name in program.graph_signature.user_inputs:
        value = nodes[name].meta.get("val") if isinstance(name, str) and name in nodes else None
        if isinstance(value, torch.Tensor):
            own = dims.get(str(name), {})
            taken[str(name)] = ",".join(_size(program, size, own.get(i)) for i, size in enumerate(value.shape))
    return taken


def _size(program: ExportedProgram, size: Any, name: str | None) -> str:
    if isinstance(size, int):
        return str(size)
    expression = size.node.expr
    bounds = program.range_constraints.get(expression)
    if bounds is None:
        return name or str(expression)
    most = "" if bounds.upper > 1 << 60 else str(bounds.upper)
    return f"{name or expression}({bounds.lower}..{most})"
