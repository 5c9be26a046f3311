"""The app: its commands, and how they end.

Nothing here imports torch: help and completion stay instant. The commands import wnconvert when they run.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from inspect import Parameter, signature
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from wnconvert.errors import WnconvertError, WnconvertWarning
from wnconvert.registry import Registry
from wnconvert_cli import commands
from wnconvert_cli.exits import INTERRUPTED, TERMINATED, exit_code, message
from wnconvert_cli.groups import flattened
from wnconvert_cli.lines import say

#: files may hold millions of objects that live as long as the process: looking for garbage among them takes most of it.
SELDOM = (100_000, 50, 50)

EPILOG = "Exit codes: 0 done, 1 failed, 2 usage, 3 nothing to convert, 4 verification failed."


class ErrorsToExitCodes(TyperGroup):
    """Give each error that wnconvert raises on purpose one line on stderr and its exit code.

    Anything else is a bug of wnconvert and keeps its traceback.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            with _decently():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever reads stdout has had enough; typer ends quietly
        except (WnconvertError, OSError) as error:
            say("error", message(error))
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as error:
            say("error", "interrupted; nothing was written")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    name="wnconvert",
    cls=ErrorsToExitCodes,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def add(name: str, command: Callable[..., None], to: typer.Typer) -> None:
    """Make a function a command; where it needs arguments, it shows its help without any."""
    flat = flattened(command)
    needs = [each for each in signature(flat).parameters.values() if each.default is Parameter.empty]
    to.command(name, no_args_is_help=bool(needs))(flat)


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
def only_ours() -> Iterator[None]:
    """Show no warnings but those of what other distributions offer, each in one line."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, WnconvertWarning):
            say("warning", str(message))
        else:
            shown(message, category, *place, **more)

    with warnings.catch_warnings():
        shown, warnings.showwarning = warnings.showwarning, show
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", WnconvertWarning)
        yield


with only_ours():
    for name in COMMANDS:
        add(name, COMMANDS.get(name), app)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"wnconvert {version('wnconvert')}")
        except PackageNotFoundError:
            typer.echo("wnconvert (not installed)")
        raise typer.Exit


@app.callback()
def wnconvert(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The compiler for weight normalization in PyTorch: apply it to a checkpoint, and fold it back, exactly."""


@contextmanager
def _decently() -> Iterator[None]:
    """Leave stderr to progress and errors, and clean up (the temporary file, above all) when asked to terminate."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    thresholds = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        with only_ours():
            yield
    finally:
        gc.set_threshold(*thresholds)
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    app()
