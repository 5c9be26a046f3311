"""The options that several commands have in common, and what their texts mean."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from wnconvert.checkpoint import Layout
    from wnconvert.scheme import Scheme
    from wnconvert.selection import Selection

CHOICE, OUTPUT, SAFETY = "Which weights", "Output", "Input"


def complete_scheme(incomplete: str) -> list[str]:
    """Return the built-in schemes, by the names of their files: importing one would import torch."""
    return _files("schemes", incomplete)


def complete_format(incomplete: str) -> list[str]:
    """Return the built-in containers, by the names of their files."""
    return _files("checkpoint/formats", incomplete)


def _files(folder: str, incomplete: str) -> list[str]:
    spec = importlib.util.find_spec("wnconvert")
    roots = spec.submodule_search_locations if spec else None
    names = [path.stem for root in roots or () for path in Path(root, folder).glob("[!_]*.py")]
    return sorted(name for name in names if name.startswith(incomplete))


Input: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint.", show_default=False)]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write; by default beside the input.", rich_help_panel=OUTPUT
    ),
]
Force: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Replace an existing output; never the input.", rich_help_panel=OUTPUT)
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Convert and check, but write nothing.", rich_help_panel=OUTPUT)
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.", rich_help_panel=OUTPUT)
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        "-i",
        metavar="GLOB",
        help="Only weights whose name, or module's name, matches; repeatable.",
        rich_help_panel=CHOICE,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--exclude", "-x", metavar="GLOB", help="No weights that match; repeatable.", rich_help_panel=CHOICE),
]
Op: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--op",
        metavar="NAME",
        help="Only weights that such an op reads (conv2d, linear, ...); repeatable; needs --model.",
        rich_help_panel=CHOICE,
    ),
]
MinSize: TypeAlias = Annotated[
    int,
    typer.Option("--min-size", metavar="N", min=0, help="Only weights of N elements or more.", rich_help_panel=CHOICE),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODULE:FACTORY",
        help="Let this model's graph tell what is a weight; the current folder is searched too. Without it, names and "
        "shapes do: floating keys of two or more dims ending in 'weight', embeddings included.",
        rich_help_panel=CHOICE,
    ),
]
Only: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="PATH",
        help="Only the state dict at this dotted path ('model.generator'), and what is below; repeatable.",
        rich_help_panel=CHOICE,
    ),
]
ToFormat: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Write another container than the input's: safetensors, torch_zip, npz, ...",
        autocompletion=complete_format,
        rich_help_panel=OUTPUT,
    ),
]


class Optimizers(str, Enum):
    """What becomes of the state of optimizers that a conversion makes stale."""

    drop = "drop"
    keep = "keep"


Optimizer: TypeAlias = Annotated[
    Optimizers,
    typer.Option(
        "--optimizer",
        help="Whether optimizer state that belongs to the weights as they were is left out, or kept all the same.",
        rich_help_panel=OUTPUT,
    ),
]
Trust: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the code that the file names. Only for files of your own.", rich_help_panel=SAFETY
    ),
]
AsStateDict: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--state-dict",
        help="Read whole pickled modules as their state dicts; none of their code is run, or needed.",
        rich_help_panel=SAFETY,
    ),
]
Options: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-O", metavar="KEY=VALUE", help="An option of the scheme; repeatable. See 'wnconvert schemes'."
    ),
]
Dim: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dim",
        metavar="DIM",
        help="The dim that keeps its size in the magnitude: a number, 'none' (whole tensor), or 'output' (the "
        "output channels; needs --model).",
    ),
]

Preset: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A layout that leaves no trace in the keys: timm, timm-bit, bit, bit-npz, nfnet, mmcv-conv-ws, dora; with "
        "options, nfnet:gamma=1.7 or dora:alpha=16. Repeatable.",
    ),
]


class Precision(str, Enum):
    """How weights are composed."""

    runtime = "runtime"
    reference = "reference"


Exactness: TypeAlias = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="'runtime': weights as the layers compute them here; 'reference': in float64, rounded once.",
    ),
]


def read_scheme(name: str, options: list[str] | None) -> Scheme:
    """Return the scheme of that name with the options given as ``KEY=VALUE``.

    Raises:
        UnknownNameError: no scheme has that name.
        OptionError: an option is not of that form, or the scheme has none of that name, or the value cannot be used.
    """
    from wnconvert.errors import OptionError
    from wnconvert.scheme import SCHEMES

    kind = SCHEMES.get(name)
    known = [field.name for field in fields(kind)]
    values: dict[str, str] = {}
    for text in options or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"option {text!r} is not of the form key=value")
        if key not in known:
            raise OptionError(f"scheme {name!r} has no option {key!r}; {suggest(key, known)}")
        values[key] = value
    return kind.from_options(values)


def read_layout(text: str, scheme: str | None) -> Layout:
    """Return the layout that ``name`` or ``name:option=value`` means.

    Raises:
        UnknownNameError: there is none.
        OptionError: it has no such option, or cannot be written, or not with that scheme.
    """
    from wnconvert.checkpoint.layout import read_preset
    from wnconvert.checkpoint.weights.unfolding import scheme_of

    layout = read_preset(text)
    scheme_of(layout, scheme)
    return layout


def read_dim(text: str | None) -> int | Literal["output", "default"] | None:
    """Return the dim that a text means; no text is the default.

    Raises:
        OptionError: it means none.
    """
    from wnconvert.errors import OptionError

    if text is None:
        return "default"
    if text.lower() == "none":
        return None
    if text.lower() == "output":
        return "output"
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"--dim is {text!r}; it must be a number, 'none' or 'output'") from None


def read_modules(state_dict: bool) -> Literal["module", "state_dict"]:
    """Return what becomes of whole modules in a file."""
    return "state_dict" if state_dict else "module"


def read_selection(
    include: list[str] | None, exclude: list[str] | None, op: list[str] | None, min_size: int
) -> Selection:
    """Return the selection that the options of that name mean."""
    from wnconvert.selection import Selection

    return Selection(tuple(include or ("*",)), tuple(exclude or ()), tuple(op or ()), min_size)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that was meant, and all that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"(known: {', '.join(names) or 'none'})"
