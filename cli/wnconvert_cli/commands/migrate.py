"""``wnconvert migrate``."""

from __future__ import annotations

from enum import Enum
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
    Only,
    Optimizer,
    Optimizers,
    Output,
    Quiet,
    ToFormat,
    Trust,
    read_dim,
    read_modules,
    read_selection,
)

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint, Conversion


class Target(str, Enum):
    """torch's two interfaces."""

    hook = "hook"
    parametrization = "parametrization"


def migrate(
    file: Input,
    to: Annotated[
        Target,
        typer.Option(
            "--to",
            help="'hook': torch.nn.utils.weight_norm and spectral_norm. 'parametrization': the functions of the same "
            "names in torch.nn.utils.parametrizations.",
            show_default=False,
        ),
    ],
    dim: Dim = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            metavar="FOLDER",
            help="Spell this DoRA adapter of PEFT, over the checkpoint, as weight norm. For a checkpoint with the "
            "adapter in it, give its adapter_config.json.",
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
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
    """Spell weight norms and spectral norms as the other of torch's two interfaces.

    conv.weight_g becomes conv.parametrizations.weight.original0, or the other way
    round: the same numbers under other keys, so that the file loads strictly into
    a model of the other interface. There and back gives the same file. BigGAN's
    layers and the wrapper with weight_bar become those of torch, without a way back.
    """
    from wnconvert_cli.conversion import Job, run

    kept, selection = read_dim(dim), read_selection(include, exclude, None, 0)

    def convert(content: Checkpoint, ops: object) -> Conversion:
        from wnconvert.checkpoint.comparing.comparison import verify
        from wnconvert.checkpoint.conversions.migration import migrate as convert_content
        from wnconvert.checkpoint.layout import Reading
        from wnconvert.errors import OptionError, VerificationError

        places: Any = {"within": only or (), "keep_optimizers": optimizer is Optimizers.keep}
        if adapter is not None:
            from wnconvert.checkpoint.adapters.merging import migrate_adapter

            if kept != "default":
                raise OptionError("--adapter goes without --dim: DoRA keeps the output dim")
            return migrate_adapter(content, adapter, to.value, selection=selection, **places)
        if kept == "output":
            raise OptionError("--dim is 'output'; to migrate, give it as a number or 'none'")
        conversion = convert_content(content, to.value, selection=selection, dim=kept, **places)
        comparison = verify(content, conversion.checkpoint, reading=Reading(dim=kept))
        if conversion.report.exact and not comparison.equal:
            raise VerificationError(f"the migrated weights are not those of the input: {comparison.summary}")
        return conversion

    def refuse(source: Any) -> Any:
        from wnconvert.errors import CheckpointError

        raise CheckpointError(f"{str(file)!r} holds a whole model, not a state dict; migrate its state dict")

    job = Job(
        source=file,
        output=output,
        force=force,
        selection=selection,
        model_spec=None,
        trust=trust,
        modules=read_modules(state_dict),
        dry_run=dry_run,
        json=json,
        quiet=quiet,
        to_format=format,
        suffix=to.value,
        splits=False,
        file=convert,
        model=refuse,
    )
    run(job)
