"""``wnconvert apply``."""

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


def apply(
    file: Input,
    scheme: Annotated[
        str,
        typer.Option("--scheme", "-s", metavar="NAME", help="The normalization.", autocompletion=complete_scheme),
    ] = "weight_norm",
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
    """Split the plain weights of a checkpoint into the parts of a scheme.

    conv.weight becomes conv.weight_g and conv.weight_v; all else stays as it is.
    The output is read back and verified before it appears: with a scheme that
    preserves the function, every weight is bit-identical.
    """
    from wnconvert import checkpoint
    from wnconvert_cli.conversion import Job, run

    chosen, kept = read_scheme(scheme, option), read_dim(dim)
    selection = read_selection(include, exclude, op, min_size)

    def convert_model(source: Any) -> Any:
        from wnconvert import api

        return api.apply(source, chosen, dim=kept, selection=selection)

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
        suffix=chosen.name,
        splits=True,
        file=lambda content, ops: checkpoint.apply(content, chosen, dim=kept, selection=selection, ops=ops),
        model=convert_model,
    )
    run(job)
