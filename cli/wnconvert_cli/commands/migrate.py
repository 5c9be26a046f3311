"""``wnconvert migrate``."""

from __future__ import annotations

from wnconvert_cli.answer import Answer
from wnconvert_cli.groups import Opening, Scope, Writing
from wnconvert_cli.options import (
    AdapterToMigrate,
    Device,
    Dim,
    Exclude,
    Files,
    Include,
    Only,
    Optimizer,
    Optimizers,
    To,
)
from wnconvert_cli.texts import read_kept_dim


def migrate(
    files: Files,
    to: To,
    *,
    dim: Dim = None,
    adapter: AdapterToMigrate = None,
    include: Include = None,
    exclude: Exclude = None,
    only: Only = None,
    optimizer: Optimizer = Optimizers.drop,
    device: Device = None,
    writing: Writing,
    opening: Opening,
    answer: Answer,
) -> None:
    """Spell weight norms and spectral norms as the other of torch's two interfaces.

    conv.weight_g becomes conv.parametrizations.weight.original0, or the other way
    round: the same numbers under other keys, so that the file loads strictly into
    a model of the other interface. There and back gives the same file. BigGAN's
    layers and the wrapper with weight_bar become those of torch, without a way back.
    """
    from wnconvert.checkpoint.storage.opened import require_file
    from wnconvert.errors import OptionError
    from wnconvert_cli import tasks
    from wnconvert_cli.conversion import run

    scope = Scope(include=include, exclude=exclude, only=only, optimizer=optimizer, device=device)
    if adapter and dim is not None:
        raise OptionError("--adapter goes without --dim: DoRA keeps the output dim")
    if adapter:
        require_file(adapter)
        task = tasks.migrate_adapter(scope, to.value, adapter)
    else:
        task = tasks.migrate(scope, to.value, read_kept_dim(dim, "to migrate"))
    run(task, files, scope, writing, opening, answer)
