"""The options of all commands, as typer reads them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

#: options by the panel of the help that they stand in; others stand in the first
_choice = partial(typer.Option, rich_help_panel="Which weights")
_output = partial(typer.Option, rich_help_panel="Output")
_input = partial(typer.Option, rich_help_panel="Input")


def complete_scheme(incomplete: str) -> list[str]:
    """Return the schemes that a text may mean."""
    from wnconvert.scheme import SCHEMES

    return _meant(SCHEMES, incomplete)


def complete_weights(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of weights that a text may mean, from the files on the line."""
    from wnconvert_cli.completing import of_files

    return of_files(ctx, incomplete)


def complete_layout(incomplete: str) -> list[str]:
    """Return the layouts that a text may mean."""
    from wnconvert.checkpoint.layout import LAYOUTS

    return _meant(LAYOUTS, incomplete)


def complete_format(incomplete: str) -> list[str]:
    """Return the containers that a text may mean; to look at them would import torch."""
    from wnconvert.checkpoint.format import FORMATS

    return _meant(FORMATS.peek(), incomplete)


def _meant(names: Iterable[str], incomplete: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a shell completes in the middle of a line
        return sorted(name for name in names if name.startswith(incomplete))


Files: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="The checkpoints; a quoted pattern ('runs/*.pt') means all that it matches, and - standard input.",
        show_default=False,
    ),
]
Output: TypeAlias = Annotated[
    Path | None,
    _output(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write, by the suffix in which container; by default beside the input. - is standard output, "
        "and the default for an input from there.",
    ),
]
OutputDir: TypeAlias = Annotated[
    Path | None,
    _output(
        "--output-dir",
        "-d",
        metavar="FOLDER",
        help="Write into this existing folder, under the names that are the default beside the inputs.",
    ),
]
Force: TypeAlias = Annotated[bool, _output("--force", help="Replace an existing output; never the input.")]
DryRun: TypeAlias = Annotated[bool, _output("--dry-run", help="Convert and check, but write nothing.")]
Strict: TypeAlias = Annotated[
    bool,
    _output(
        "--strict", help="Fail, and write nothing, if any weight that was asked for is skipped; --exclude takes it out."
    ),
]
Json: TypeAlias = Annotated[bool, _output("--json", help="Print one JSON document, whatever happens.")]
Quiet: TypeAlias = Annotated[bool, _output("--quiet", "-q", help="Print warnings and errors only.")]
Include: TypeAlias = Annotated[
    list[str] | None,
    _choice(
        "--include",
        "-i",
        metavar="GLOB",
        help="Only weights whose name, or module's name, matches; repeatable.",
        autocompletion=complete_weights,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    _choice(
        "--exclude",
        "-x",
        metavar="GLOB",
        help="No weights that match; repeatable.",
        autocompletion=complete_weights,
    ),
]
Op: TypeAlias = Annotated[
    list[str] | None,
    _choice(
        "--op",
        metavar="NAME",
        help="Only weights that such an op reads (conv2d, linear, ...); repeatable; needs --model.",
    ),
]
MinSize: TypeAlias = Annotated[
    int,
    _choice("--min-size", metavar="N", min=0, help="Only weights of N elements or more."),
]
Source: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|FILE",
        help="package.module:factory or path/file.py:factory; or a pickled model, a .pt2 program, a checkpoint.",
        show_default=False,
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    _choice(
        "--model",
        "-m",
        metavar="MODULE:FACTORY",
        help="Let this model's graph tell what is a weight: package.module:build, in the current folder too, or "
        "path/file.py:Class. Without it, names and "
        "shapes do: floating keys of two or more dims ending in 'weight', embeddings included.",
    ),
]
Only: TypeAlias = Annotated[
    list[str] | None,
    _choice(
        "--only",
        metavar="PATH",
        help="Only the state dict at this dotted path ('model.generator'), and what is below; repeatable.",
    ),
]
ToFormat: TypeAlias = Annotated[
    str | None,
    _output(
        "--format",
        metavar="NAME",
        help="Write another container than the input's: safetensors, torch_zip, npz, ...",
        autocompletion=complete_format,
    ),
]


class Optimizers(str, Enum):
    """What becomes of the state of optimizers that a conversion makes stale."""

    drop = "drop"
    reset = "reset"
    keep = "keep"


Optimizer: TypeAlias = Annotated[
    Optimizers,
    _output(
        "--optimizer",
        help="What becomes of the state of an optimizer that was for the weights as they were: 'drop' leaves it out, "
        "'reset' leaves its hyper-parameters for an optimizer of the new weights, 'keep' leaves it as it is.",
    ),
]
Trust: TypeAlias = Annotated[
    bool,
    _input("--trust", help="Run the code that the file names, in the current folder too. Only for files of your own."),
]
AsStateDict: TypeAlias = Annotated[
    bool,
    _input(
        "--state-dict", help="Read whole pickled modules as their state dicts; none of their code is run, or needed."
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
        help="The kept dim, which keeps its size in the magnitude: a number, 'none' (all are reduced), or 'output' "
        "(the output channels; needs --model).",
    ),
]

Preset: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A layout that leaves no trace in the keys, with options as name:option=value. See 'wnconvert layouts'. "
        "Repeatable.",
        autocompletion=complete_layout,
    ),
]


Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Compute weights on this device: cuda, cuda:1, mps, xpu. Last bits are those of its kernels, and what was "
        "written is verified there too. By default, and with cpu, on the CPU.",
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

_scheme = partial(typer.Option, "--scheme", "-s", metavar="NAME", autocompletion=complete_scheme)
SchemeToApply: TypeAlias = Annotated[
    str | None,
    _scheme(help="The normalization; by default what the file records, or that of --layout, else weight_norm."),
]
SchemeToFold: TypeAlias = Annotated[
    str | None,
    _scheme(help="Fold only this one, with the given options; by default, what the keys and the file's record say."),
]
Like: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="FILE",
        help="Do exactly as in this checkpoint, or as it was before it was folded: the same weights, schemes, kept "
        "dims and keys.",
    ),
]
LayoutToApply: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="NAME",
        help="Spell the parts as other software does, so that its modules load the file; with options as "
        "name:option=value. See 'wnconvert layouts'.",
        autocompletion=complete_layout,
    ),
]
AdapterToFold: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="Fold this DoRA or LoRA adapter of PEFT into the checkpoint, which is its base. For a checkpoint with "
        "the adapter in it, give its adapter_config.json.",
    ),
]
AdapterToMigrate: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="Spell this DoRA adapter of PEFT, over the checkpoint, as weight norm. For a checkpoint with the "
        "adapter in it, give its adapter_config.json.",
    ),
]
Record: TypeAlias = Annotated[
    bool,
    _output(
        "--record/--no-record",
        help="Whether the output records what was folded, so that 'apply' can repeat it and 'inspect' shows it.",
    ),
]


class Target(str, Enum):
    """torch's two interfaces."""

    hook = "hook"
    parametrization = "parametrization"


To: TypeAlias = Annotated[
    Target,
    typer.Option(
        "--to",
        help="'hook': torch.nn.utils.weight_norm and spectral_norm. 'parametrization': the functions of the same "
        "names in torch.nn.utils.parametrizations.",
        show_default=False,
    ),
]
Tolerance: TypeAlias = Annotated[
    float,
    typer.Option(
        "--tolerance",
        "-t",
        metavar="T",
        min=0.0,
        help="How far elements may differ, as a share of the largest magnitude of their tensor; 0 asks for equal bits.",
    ),
]
Inputs: TypeAlias = Annotated[
    list[str] | None,
    _input(
        "--input",
        "-I",
        metavar="NAME=DIMS",
        help="An input of the model's forward, with dynamic dims by name: x=1,80,T, or ids=2,T(2..512):int64; "
        "repeatable. By default the model's own 'example_inputs' and 'dynamic_shapes'.",
    ),
]
Fuse: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--fuse",
        metavar="NAME,...",
        help="Fuse normalizations of activations, too: batch_norm, gain, or all. This is measured, and not exact.",
    ),
]
Plot: TypeAlias = Annotated[
    Path | None,
    _output(
        "--plot",
        metavar="FILE",
        help="Draw the weights: norms of channels, magnitudes, spectral norms, dead and duplicate channels; .png, .svg "
        "or .pdf. Takes the extra [plot].",
    ),
]
Distributions: TypeAlias = Annotated[
    bool,
    _output(
        "--distributions",
        help="Show beside each weight how the norms of its channels, and its magnitudes, are distributed, its spectral "
        "norm, and dead and duplicate channels. This reads all weights.",
    ),
]
Against: TypeAlias = Annotated[
    Path | None,
    _input(
        "--against",
        metavar="FILE",
        help="Show how the checkpoint differs from this one, tensor by tensor, whatever their layouts and containers: "
        "missing and extra ones, shapes, dtypes, norms and angles.",
    ),
]
Page: TypeAlias = Annotated[
    Path | None,
    _output(
        "--html",
        metavar="FILE",
        help="Write all of it as one page, which needs nothing else: a table of the weights to be sorted and filtered, "
        "with figures.",
    ),
]
