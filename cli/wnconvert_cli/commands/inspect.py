"""``wnconvert inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from wnconvert_cli.answer import Answer
from wnconvert_cli.groups import Views
from wnconvert_cli.lines import tell
from wnconvert_cli.options import Files, Json, Trust

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint
    from wnconvert.checkpoint.inspecting.summary import StateDictSummary
    from wnconvert.checkpoint.storage.opened import Opened
    from wnconvert.report import Finding

#: the entry of a file of which nothing is known yet.
BLANK: Mapping[str, Any] = {
    "format": None,
    "bytes": None,
    "layouts": {},
    "metadata": {},
    "notes": [],
    "state_dicts": [],
    "findings": [],
    "weights": None,
    "against": None,
}


def inspect(files: Files, *, views: Views, json: Json = False, trust: Trust = False, answer: Answer) -> None:
    """Show what is in a checkpoint: its state dicts, their schemes, and what is odd about the weights.

    Whole models are read as their state dicts, without their code. With --trust, it
    runs, and tells what will silently go wrong because their weights are normalized.
    """
    from wnconvert_cli import batch, render, streams
    from wnconvert_cli.figures.outputs import Outputs
    from wnconvert_cli.measuring import compared, measured, require_other

    inputs = batch.expand(files)
    require_other(views.against)
    outputs = Outputs.of(views, inputs)

    def look(file: Path, entry: dict[str, Any]) -> None:
        with streams.received(file) as path:
            look_at(file, path, entry)

    def look_at(file: Path, path: Path, entry: dict[str, Any]) -> None:
        other = views.against
        with render.progress(f"reading {file.name}"):
            seen = _look(path, trust)
            weights = measured(path, seen.checkpoint, trust=trust) if views.measures else None
            differences = compared(path, seen.checkpoint, other, trust=trust) if other else None
        notes = [*seen.notes, *_of_adapter(file, seen.summaries)]
        metadata = {key: text for key, text in seen.metadata.items() if key != "wnconvert"}
        entry |= {
            "format": seen.title,
            "bytes": render.bytes_of(path),
            "layouts": dict(sum((Counter(each.layouts) for each in seen.summaries), Counter())),
            "metadata": metadata,
            "notes": notes,
            "state_dicts": [each.to_dict() for each in seen.summaries],
            "findings": [asdict(finding) for finding in seen.findings],
            "weights": None if weights is None else [each.to_dict() for each in weights],
            "against": None if differences is None else {"file": str(other), **differences.to_dict()},
        }
        outputs.write(entry, weights)
        if not json:
            if len(answer.files) > 1:
                tell("")
            render.inspection(file, entry["bytes"], seen.title, metadata, notes, seen.summaries)
            if weights and views.distributions:
                render.distributions(weights)
            if other is not None and differences is not None:
                render.against(other, differences)
            render.findings(seen.findings)

    ended = batch.each(inputs, look, answer, **BLANK)
    if len(inputs) > 1 and not json:
        render.all_of(answer.files, ended, done="inspected")
    if answer.exit_code:
        raise typer.Exit(answer.exit_code)


class _Seen(NamedTuple):
    """What there is to show."""

    title: str
    metadata: Mapping[str, str]
    summaries: Sequence[StateDictSummary]
    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    checkpoint: Checkpoint | None = None


def _of_adapter(file: Path, summaries: Sequence[StateDictSummary]) -> list[str]:
    """Return what to do with a file that holds nothing but an adapter."""
    from wnconvert.checkpoint.inspecting.adapter import base_of

    if not any(each.adapter and not each.plain for each in summaries):
        return []
    base = base_of(file)
    over = f"the base {base!r}" if base else "a base that is not in it"
    return [f"an adapter over {over}; to fold it into that, wnconvert fold BASE --adapter {str(file)!r}"]


def _look(file: Path, trust: bool) -> _Seen:
    """Return what there is to show, with as few imports as the file allows."""
    from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch
    from wnconvert_cli import onnx_models

    if (seen := inspect_without_torch(file)) is not None:
        summary, metadata = seen
        return _Seen("safetensors", metadata, [summary] if summary else [])

    if onnx_models.is_one(file):
        found = onnx_models.inspect_file(file)
        return _Seen(onnx_models.TITLE, found.metadata, [found.summary], found.findings, found.notes)

    from torch import nn

    from wnconvert import check
    from wnconvert.checkpoint import FORMATS, inspect as summarize, load
    from wnconvert.checkpoint.storage.opened import Opened

    opened = Opened(file)
    checkpoint = load(opened, trust=trust, modules="module" if trust else "state_dict")
    is_module = isinstance(checkpoint.content, nn.Module)
    findings, notes = (check(checkpoint.content), ()) if is_module else _of_program(opened, trust)
    title = FORMATS.get(checkpoint.format).title
    return _Seen(title, checkpoint.metadata, summarize(checkpoint), findings, (*checkpoint.notes, *notes), checkpoint)


def _of_program(file: Opened, trust: bool) -> tuple[Sequence[Finding], Sequence[str]]:
    """Return what is odd about the program in a file, if it holds one, and why that could not be looked into."""
    from wnconvert import check
    from wnconvert.checkpoint import load, recognise
    from wnconvert.errors import WnconvertError

    if not recognise(file).programs:
        return (), ()
    try:
        return check(load(file, trust=trust, modules="program").content), ()
    except WnconvertError as error:  # its weights can be read all the same
        return (), (f"what its program computes was not looked at: {error}",)
