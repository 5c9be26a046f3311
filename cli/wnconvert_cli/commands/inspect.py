"""``wnconvert inspect``."""

from __future__ import annotations

from wnconvert_cli.options import Input, Json, Trust


def inspect(file: Input, json: Json = False, trust: Trust = False) -> None:
    """Show what is in a checkpoint: its state dicts, their schemes, and what is odd about the weights."""
    from wnconvert.checkpoint import FORMATS, load
    from wnconvert.checkpoint import inspect as summarize
    from wnconvert_cli import render

    with render.progress(f"reading {file.name}"):
        checkpoint = load(file, trust=trust)
        summaries = summarize(checkpoint)
    title = FORMATS.get(checkpoint.format).title
    metadata = {key: text for key, text in checkpoint.metadata.items() if key != "wnconvert"}
    if json:
        render.json(
            {
                "input": str(file),
                "format": title,
                "bytes": file.stat().st_size,
                "metadata": metadata,
                "state_dicts": [summary.to_dict() for summary in summaries],
            }
        )
    else:
        render.inspection(file, title, metadata, summaries)
