"""The app: its commands, and how they end.

Nothing here imports torch: help and completion stay instant. The commands import wnconvert when they run.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import Parameter, signature
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from wnconvert import __version__
from wnconvert.errors import WnconvertWarning
from wnconvert.registry import Registry
from wnconvert_cli import commands
from wnconvert_cli.answer import Answer, told
from wnconvert_cli.defaults import WithDefaults
from wnconvert_cli.exits import MEANINGS
from wnconvert_cli.groups import flattened
from wnconvert_cli.lines import open_all, say
from wnconvert_cli.stopping import stoppable

#: files may hold millions of objects that live as long as the process: looking for garbage among them takes most of it.
SELDOM = (100_000, 50, 50)

EPILOG = (
    f"Exit codes: {', '.join(f'{code} {text}' for code, text in MEANINGS.items())}. "
    "Of several inputs the worst counts: 0, 3, 2, 1, 4."
)


class Answering(TyperGroup):
    """Commands that answer by one JSON document where a program asks, and always by an exit code."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read what stands before the command."""
        open_all()
        ctx.obj = Answer.to(args, self.commands)
        with told(ctx.obj):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        with told(ctx.obj), _decently(ctx.obj):
            return super().invoke(ctx)


app = typer.Typer(
    name="wnconvert",
    cls=Answering,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def add(name: str, command: Callable[..., None], to: typer.Typer) -> None:
    """Make a function a command; where it needs arguments, it shows its help without any."""
    flat = flattened(command)
    given = [each for each in signature(flat).parameters.values() if each.annotation is not typer.Context]
    needs = [each for each in given if each.default is Parameter.empty]
    to.command(name, cls=WithDefaults, no_args_is_help=bool(needs))(flat)


def try_out(command: Callable[..., None]) -> None:
    """Raise the exception that typer raises where a function cannot be a command."""
    apart = typer.Typer()
    add("it", command, apart)
    get_command(apart)


#: the commands by name: each module of the package has one of its name, and other distributions have more
COMMANDS: Registry[Callable[..., None]] = Registry("command", None, "wnconvert.commands", check=try_out)
for each in pkgutil.iter_modules(commands.__path__):
    COMMANDS.register(each.name)(getattr(importlib.import_module(f"{commands.__name__}.{each.name}"), each.name))


@contextmanager
def only_ours(warn: Callable[[str], None]) -> Iterator[None]:
    """Show no warnings but those of what other distributions offer, each in one line."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, WnconvertWarning):
            warn(str(message))
        else:
            shown(message, category, *place, **more)

    with warnings.catch_warnings():
        shown, warnings.showwarning = warnings.showwarning, show
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", WnconvertWarning)
        yield


with only_ours(partial(say, "warning")):
    for name in COMMANDS:
        add(name, COMMANDS.get(name), app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wnconvert {__version__}")
        raise typer.Exit


@app.callback()
def wnconvert(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The compiler for weight normalization in PyTorch: apply it to a checkpoint, and fold it back, exactly."""


@contextmanager
def _decently(answer: Answer) -> Iterator[None]:
    """Leave stderr to progress and errors, and clean up when asked to stop."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        with stoppable(answer.cut), only_ours(answer.warn):
            yield
    finally:
        gc.set_threshold(*thresholds)
