"""``wnconvert layouts``."""

from __future__ import annotations

from typing import Any

from wnconvert_cli.answer import Answer
from wnconvert_cli.options import Json


def layouts(json: Json = False, *, answer: Answer) -> None:
    """List the layouts: what other software calls the parts of a weight, how it is told, and what is written in it."""
    from wnconvert.checkpoint.layout import LAYOUTS
    from wnconvert_cli import render

    described = [_describe(name) for name in LAYOUTS]
    answer.body["layouts"] = described
    if not json:
        render.layouts(described)


def _describe(name: str) -> dict[str, Any]:
    from wnconvert.checkpoint.layout import LAYOUTS, options_of

    kind = LAYOUTS.get(name)
    return {
        "name": kind.name,
        "title": kind.title,
        "preset": not kind.automatic,
        "written": list(kind.spells),
        "options": options_of(kind),
    }
