"""``wnconvert apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wnconvert_cli.options import (
    AsStateDict,
    Dim,
    DryRun,
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
    Quiet,
    ToFormat,
    Trust,
    complete_scheme,
    read_dim,
    read_layout,
    read_modules,
    read_scheme,
    read_selection,
)

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint, Conversion
    from wnconvert.selection import WeightedOp


#: the scheme where neither the user nor the file names one.
DEFAULT = "weight_norm"


def apply(
    file: Input,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            "-s",
            metavar="NAME",
            help="The normalization; by default what the file records, or that of --layout, else weight_norm.",
            autocompletion=complete_scheme,
        ),
    ] = None,
    option: Options = None,
    dim: Dim = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="FILE",
            help="Do exactly as in this checkpoint, or as it was before it was folded: the same weights, schemes, dims "
            "and keys.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="NAME",
            help="Spell the parts as other software does, so that its modules load the file: parametrization, biggan, "
            "spectral_norm_bar, nfnet, mmcv-conv-aws, timm-bit, ...; with options, nfnet:gamma=1.7.",
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    op: Op = None,
    min_size: MinSize = 0,
    model: Model = None,
    only: Only = None,
    optimizer: Optimizer = Optimizers.drop,
    format: ToFormat = None,
    output: Output = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    trust: Trust = False,
    state_dict: AsStateDict = False,
) -> None:
    """Split the plain weights of a checkpoint into the parts of a scheme.

    conv.weight becomes conv.weight_g and conv.weight_v; all else stays as it is.
    The output is read back and verified before it appears: with a scheme that
    preserves the function, every weight is bit-identical. With --layout, weights
    that come back up to rounding are named, and others left alone.
    """
    from wnconvert import checkpoint
    from wnconvert.errors import OptionError
    from wnconvert.selection import Selection
    from wnconvert_cli.conversion import Job, run

    chosen = None if scheme is None and not option else read_scheme(scheme or DEFAULT, option)
    kept = read_dim(dim)
    selection = read_selection(include, exclude, op, min_size)

    places: Any = {"within": only or (), "keep_optimizers": optimizer is Optimizers.keep}

    if like is not None and (scheme or option or model or include or exclude or op or min_size):
        what = "--scheme, --option, --model and what chooses weights"
        raise OptionError(f"--like says which weights and how; leave out {what}")
    if layout is not None and (option or like):
        raise OptionError("--layout says how; leave out --option and --like, and give its options behind its name")
    spelled = None if layout is None else read_layout(layout, scheme)

    def convert_file(content: Checkpoint, ops: list[WeightedOp] | None) -> Conversion:
        if spelled is not None:
            return checkpoint.unfold(content, spelled, scheme=scheme, dim=kept, selection=selection, ops=ops, **places)
        if like is None:
            return checkpoint.apply(content, chosen, dim=kept, selection=selection, ops=ops, **places)
        from wnconvert.checkpoint.conversions.reference import apply_like

        if kept == "output":
            raise OptionError("--dim is 'output'; with --like, give it as a number or 'none'")

        return apply_like(
            content, checkpoint.load(like, trust=trust, modules=read_modules(state_dict)), dim=kept, **places
        )

    def convert_model(source: Any) -> Any:
        if like is not None or spelled is not None:
            name = "--layout" if like is None else "--like"
            raise OptionError(f"{name} is for state dicts; the file holds a whole model")
        from wnconvert_cli.models import apply_whole

        return apply_whole(source, chosen or DEFAULT, kept, selection)

    def suffix(content: Checkpoint) -> str:
        from wnconvert.checkpoint.conversions.reference import recorded_schemes

        names = recorded_schemes(content) if not model and kept == "default" and selection == Selection() else set()
        return names.pop() if len(names) == 1 else "applied" if names else DEFAULT

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
        suffix="like" if like else spelled.name if spelled else chosen.name if chosen else suffix,
        splits=True,
        layout=spelled,
        dim=kept,
        file=convert_file,
        model=convert_model,
    )
    run(job)
