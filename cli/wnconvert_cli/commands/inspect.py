"""``wnconvert inspect``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from wnconvert_cli.options import Input, Json, Trust

if TYPE_CHECKING:
    from wnconvert.checkpoint.overview import StateDictSummary
    from wnconvert.report import Finding


def inspect(file: Input, json: Json = False, trust: Trust = False) -> None:
    """Show what is in a checkpoint: its state dicts, their schemes, and what is odd about the weights.

    Of a whole model (--trust), also what will silently go wrong because its weights are normalized.
    """
    from wnconvert_cli import render

    with render.progress(f"reading {file.name}"):
        title, metadata, summaries, findings = _look(file, trust)
    metadata = {key: text for key, text in metadata.items() if key != "wnconvert"}
    if json:
        render.json(
            {
                "input": str(file),
                "format": title,
                "bytes": render.bytes_of(file),
                "metadata": metadata,
                "state_dicts": [summary.to_dict() for summary in summaries],
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        render.inspection(file, title, metadata, summaries)
        render.findings(findings)


def _look(file: Input, trust: bool) -> tuple[str, dict[str, str], list[StateDictSummary], tuple[Finding, ...]]:
    """Return what there is to show, with as few imports as the file allows."""
    from wnconvert.checkpoint.glance import glance

    if (seen := glance(file)) is not None:
        summary, metadata = seen
        return "safetensors", metadata, [summary] if summary else [], ()

    from torch import nn

    from wnconvert import check
    from wnconvert.checkpoint import FORMATS, load
    from wnconvert.checkpoint import inspect as summarize

    checkpoint = load(file, trust=trust)
    findings = check(checkpoint.content) if isinstance(checkpoint.content, nn.Module) else ()
    return FORMATS.get(checkpoint.format).title, dict(checkpoint.metadata), summarize(checkpoint), findings
