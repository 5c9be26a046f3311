"""``wnconvert fold``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wnconvert_cli.options import (
    OUTPUT,
    AsStateDict,
    Dim,
    DryRun,
    Exactness,
    Exclude,
    Force,
    Include,
    Input,
    Json,
    MinSize,
    Model,
    Only,
    Op,
    Optimizer,
    Optimizers,
    Options,
    Output,
    Precision,
    Preset,
    Quiet,
    ToFormat,
    Trust,
    complete_scheme,
    read_dim,
    read_modules,
    read_scheme,
    read_selection,
)

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint, Conversion
    from wnconvert.selection import WeightedOp


def fold(
    file: Input,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            "-s",
            metavar="NAME",
            help="Fold only this one, with the given options; by default, what the keys and the file's record say.",
            autocompletion=complete_scheme,
        ),
    ] = None,
    option: Options = None,
    dim: Dim = None,
    preset: Preset = None,
    precision: Exactness = Precision.runtime,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="FOLDER",
            help="Fold this DoRA or LoRA adapter of PEFT into the checkpoint, which is its base. For a checkpoint with "
            "the adapter in it, give its adapter_config.json.",
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    op: Op = None,
    min_size: MinSize = 0,
    model: Model = None,
    only: Only = None,
    optimizer: Optimizer = Optimizers.drop,
    record: Annotated[
        bool,
        typer.Option(
            "--record/--no-record",
            help="Whether the output records what was folded, so that 'apply' can repeat it and 'inspect' shows it.",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    format: ToFormat = None,
    output: Output = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    trust: Trust = False,
    state_dict: AsStateDict = False,
) -> None:
    """Compose the parts in a checkpoint into plain weights.

    conv.weight_g and conv.weight_v become conv.weight, with the bits that the
    model itself computes from them; all else stays as it is.
    """
    from wnconvert import checkpoint
    from wnconvert.checkpoint.layout import read_preset
    from wnconvert.checkpoint.layouts.dora import Dora
    from wnconvert.errors import OptionError
    from wnconvert_cli.conversion import Job, run

    if option and scheme is None:
        raise OptionError("--option needs --scheme: it is an option of a scheme")
    chosen = None if scheme is None else read_scheme(scheme, option)
    kept = read_dim(dim)
    selection = read_selection(include, exclude, op, min_size)

    places: Any = {"within": only or (), "keep_optimizers": optimizer is Optimizers.keep}

    presets = tuple(map(read_preset, preset or ()))
    live = next((each for each in presets if isinstance(each, Dora)), None)
    if adapter is not None and presets:
        raise OptionError("--adapter and --preset exclude each other: the adapter's config says all")
    if (adapter or live) and (chosen or model or kept != "default" or len(presets) > 1):
        name = "--preset dora" if live else "--adapter"
        raise OptionError(f"{name} goes with --include, --exclude, --only and --precision alone")

    def convert_file(content: Checkpoint, ops: list[WeightedOp] | None) -> Conversion:
        if source := adapter or live:
            from wnconvert.checkpoint.adapters.merging import fold_adapter

            return fold_adapter(content, source, selection=selection, precision=precision.value, **places)
        return checkpoint.fold(
            content,
            scheme=chosen,
            dim=kept,
            selection=selection,
            ops=ops,
            presets=presets,
            precision=precision.value,
            record=record,
            **places,
        )

    def convert_model(source: Any) -> Any:
        from wnconvert import api

        if adapter or live:
            raise OptionError("an adapter is folded into a state dict; the file holds a whole model")
        if chosen is not None or kept != "default":
            raise OptionError("a whole model says itself how its weights are computed; leave out --scheme and --dim")
        return api.fold(source, selection=selection)

    job = Job(
        source=file,
        output=output,
        force=force,
        selection=selection,
        model_spec=model,
        trust=trust,
        modules=read_modules(state_dict),
        dry_run=dry_run,
        json=json,
        quiet=quiet,
        to_format=format,
        suffix="folded",
        splits=False,
        file=convert_file,
        model=convert_model,
    )
    run(job)
