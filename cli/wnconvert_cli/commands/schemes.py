"""``wnconvert schemes``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wnconvert_cli.answer import Answer
from wnconvert_cli.options import Json, complete_scheme


def schemes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Show this one in detail.", show_default=False, autocompletion=complete_scheme
        ),
    ] = None,
    json: Json = False,
    *,
    answer: Answer,
) -> None:
    """List the schemes, or show one: its formula, parts, options and paper."""
    from wnconvert.scheme import SCHEMES
    from wnconvert_cli import render

    described = [_describe(each) for each in ([name] if name else SCHEMES)]
    answer.body["schemes"] = described
    if json:
        return
    if name:
        render.scheme(described[0])
    else:
        render.schemes(described)


def _describe(name: str) -> dict[str, Any]:
    import inspect
    import re
    from dataclasses import fields

    from wnconvert.scheme import SCHEMES

    kind = SCHEMES.get(name)
    default = kind()
    text, _, attributes = re.sub(r"`+", "", inspect.getdoc(kind) or "").partition("\n\nAttributes:\n")
    explained = {
        key: " ".join(value.split()) for key, value in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", attributes, re.M)
    }
    return {
        "name": kind.name,
        "description": [" ".join(paragraph.split()) for paragraph in text.split("\n\n")],
        "formula": kind.formula,
        "parts": [list(parts) for parts in kind.variants],
        "shared": list(kind.shared),
        "state": sorted(kind.state),
        "preserving": default.preserving,
        "dim": "none" if kind.default_dim is None else kind.default_dim,
        "options": {
            field.name: {"default": field.default, "meaning": explained.get(field.name, "")} for field in fields(kind)
        },
        "paper": kind.reference,
    }
