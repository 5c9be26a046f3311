"""``wnconvert fold``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wnconvert_cli.options import (
    Dim,
    DryRun,
    Exclude,
    Force,
    Include,
    Input,
    Json,
    MinSize,
    Model,
    Op,
    Options,
    Output,
    Quiet,
    Trust,
    complete_scheme,
    read_dim,
    read_scheme,
    read_selection,
)


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
    include: Include = None,
    exclude: Exclude = None,
    op: Op = None,
    min_size: MinSize = 0,
    model: Model = None,
    output: Output = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Compose the parts in a checkpoint into plain weights.

    conv.weight_g and conv.weight_v become conv.weight, with the bits that the
    model itself computes from them; all else stays as it is.
    """
    from wnconvert import checkpoint
    from wnconvert.errors import OptionError
    from wnconvert_cli.conversion import Job, run

    if option and scheme is None:
        raise OptionError("--option needs --scheme: it is an option of a scheme")
    chosen = None if scheme is None else read_scheme(scheme, option)
    kept = read_dim(dim)
    selection = read_selection(include, exclude, op, min_size)

    def convert_model(source: Any) -> Any:
        from wnconvert import api

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
        dry_run=dry_run,
        json=json,
        quiet=quiet,
        suffix="folded",
        splits=False,
        file=lambda content, ops: checkpoint.fold(content, scheme=chosen, dim=kept, selection=selection, ops=ops),
        model=convert_model,
    )
    run(job)
