"""``wnconvert apply``."""

from __future__ import annotations

from wnconvert_cli.answer import Answer
from wnconvert_cli.groups import Opening, Scope, Writing
from wnconvert_cli.options import Dim, Files, LayoutToApply, Like, Options, SchemeToApply
from wnconvert_cli.texts import read_dim, read_kept_dim, read_scheme


def apply(
    files: Files,
    *,
    scheme: SchemeToApply = None,
    option: Options = None,
    dim: Dim = None,
    like: Like = None,
    layout: LayoutToApply = None,
    scope: Scope,
    writing: Writing,
    opening: Opening,
    answer: Answer,
) -> None:
    """Split the plain weights of a checkpoint into the parts of a scheme.

    conv.weight becomes conv.weight_g and conv.weight_v; all else stays as it is.
    The output is read back and verified before it appears: with a scheme that
    preserves the function, every weight is bit-identical. With --layout, weights
    that come back up to rounding are named, and others left alone.
    """
    from wnconvert.checkpoint.layout import read_preset
    from wnconvert.checkpoint.storage.opened import require_file
    from wnconvert.errors import OptionError
    from wnconvert_cli import tasks
    from wnconvert_cli.conversion import run

    chosen = read_scheme(scheme or tasks.DEFAULT, option) if scheme or option else None
    if like and any((chosen, scope.model, scope.include, scope.exclude, scope.op, scope.min_size)):
        what = "--scheme, --option, --model and what chooses weights"
        raise OptionError(f"--like says which weights and how; leave out {what}")
    if layout and (option or like):
        raise OptionError("--layout says how; leave out --option and --like, and give its options behind its name")
    if like:
        require_file(like)
        task = tasks.split_like(scope, like, read_kept_dim(dim, "with --like"), opening)
    elif layout:
        task = tasks.spell(scope, read_preset(layout), scheme, read_dim(dim))
    else:
        task = tasks.split(scope, chosen, read_dim(dim))
    run(task, files, scope, writing, opening, answer)
