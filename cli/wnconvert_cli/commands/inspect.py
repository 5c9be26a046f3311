"""``wnconvert inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from wnconvert_cli.options import File, Json, Trust

if TYPE_CHECKING:
    from wnconvert.checkpoint.inspecting.summary import StateDictSummary
    from wnconvert.report import Finding


def inspect(file: File, json: Json = False, trust: Trust = False) -> None:
    """Show what is in a checkpoint: its state dicts, their schemes, and what is odd about the weights.

    Whole models are read as their state dicts, without their code. With --trust, it
    runs, and tells what will silently go wrong because their weights are normalized.
    """
    from wnconvert_cli import render

    with render.progress(f"reading {file.name}"):
        seen = _look(file, trust)
    metadata = {key: text for key, text in seen.metadata.items() if key != "wnconvert"}
    if json:
        render.json(
            {
                "input": str(file),
                "format": seen.title,
                "bytes": render.bytes_of(file),
                "metadata": metadata,
                "notes": list(seen.notes),
                "state_dicts": [summary.to_dict() for summary in seen.summaries],
                "findings": [asdict(finding) for finding in seen.findings],
            }
        )
    else:
        render.inspection(file, seen.title, metadata, seen.notes, seen.summaries)
        render.findings(seen.findings)


class _Seen(NamedTuple):
    """What there is to show."""

    title: str
    metadata: Mapping[str, str]
    summaries: Sequence[StateDictSummary]
    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()


def _look(file: File, trust: bool) -> _Seen:
    """Return what there is to show, with as few imports as the file allows."""
    from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch

    if (seen := inspect_without_torch(file)) is not None:
        summary, metadata = seen
        return _Seen("safetensors", metadata, [summary] if summary else [])

    from torch import nn

    from wnconvert import check
    from wnconvert.checkpoint import FORMATS, inspect as summarize, load

    checkpoint = load(file, trust=trust, modules="module" if trust else "state_dict")
    findings = check(checkpoint.content) if isinstance(checkpoint.content, nn.Module) else ()
    title = FORMATS.get(checkpoint.format).title
    return _Seen(title, checkpoint.metadata, summarize(checkpoint), findings, checkpoint.notes)
