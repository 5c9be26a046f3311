"""What a project takes for granted: the table ``[tool.wnconvert]`` of the nearest pyproject.toml.

A key is an option without its dashes. It holds for each command that has such an option; a table of a command's name
holds for that command, and goes first. What the command line says wins, and each output names what came from here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from wnconvert.errors import OptionError

FILE = "pyproject.toml"
#: the options that a project may set. Not those that run code (a folder that somebody else made is no place to ask for
#: that), replace files, name the files of one call, or say what the answer looks like to a program.
ALLOWED = (
    "device", "dim", "distributions", "exclude", "format", "fuse", "include", "layout", "min-size", "only", "optimizer",
    "option", "output-dir", "precision", "preset", "quiet", "record", "scheme", "state-dict", "strict", "to",
    "tolerance",
)  # fmt: skip
#: a default gives way to what excludes it, where the call says that
EXCLUDED_BY = {
    "output_dir": ("output",),
    "state_dict": ("trust",),
    "scheme": ("adapter", "like", "layout"),
    "option": ("adapter", "like", "layout", "scheme"),
    "preset": ("adapter",),
    "layout": ("like", "scheme", "option"),
    "dim": ("adapter",),
}


class WithDefaults(TyperCommand):
    """A command that asks the project for what it is not told."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the arguments, and the project's defaults as soon as one is asked for: help asks for none."""
        if not ctx.resilient_parsing:  # a shell that completes
            ctx.default_map = Lazy(ctx)
        rest = super().parse_args(ctx, args)
        for name, others in EXCLUDED_BY.items():
            if from_project(ctx, name) and any(_said(ctx, other) for other in others):
                parameter: Any = next(each for each in self.params if each.name == name)
                ctx.params[name] = parameter.process_value(ctx, parameter.default)
                ctx.set_parameter_source(name, type(ctx.get_parameter_source(name))["DEFAULT"])  # type: ignore[index]
        return rest

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Show the help, whatever the project says."""
        ctx.default_map = None
        super().format_help(ctx, formatter)


class Lazy(MutableMapping[str, Any]):
    """The defaults of a command, read when one is first asked for."""

    def __init__(self, context: typer.Context) -> None:
        self.context = context
        self._read: dict[str, Any] | None = None
        self.file: Path | None = None

    @property
    def values_read(self) -> dict[str, Any]:
        """The defaults by the names of parameters."""
        if self._read is None:
            self.file, self._read = read(self.context)
        return self._read

    def __getitem__(self, name: str) -> Any:
        return self.values_read[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values_read[name] = value

    def __delitem__(self, name: str) -> None:
        del self.values_read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_read)

    def __len__(self) -> int:
        return len(self.values_read)


def used(context: typer.Context) -> dict[str, Any] | None:
    """Return the file and the options that the project sets in a call, ready for JSON; None if it sets none."""
    given = context.default_map
    if not isinstance(given, Lazy):
        return None
    options = {name: value for name, value in given.items() if from_project(context, name)}
    return {"file": str(given.file), "options": options} if options else None


def described(used: Mapping[str, Any]) -> str:
    """Return what `used` gives in one line."""
    told = (f"--{name.replace('_', '-')} {_words(value)}" for name, value in used["options"].items())
    return f"defaults of {used['file']!r}: {', '.join(told)}"


def from_project(context: typer.Context, name: str) -> bool:
    """Return whether a parameter has the value that the project says."""
    return _source(context, name) == "DEFAULT_MAP"


def quiet(context: typer.Context) -> bool:
    """Return whether the call itself asks for silence; a project cannot ask that its own defaults are not named."""
    return bool(context.params.get("quiet")) and not from_project(context, "quiet")


def _said(context: typer.Context, name: str) -> bool:
    return _source(context, name) == "COMMANDLINE"


def _source(context: typer.Context, name: str) -> str | None:
    source = context.get_parameter_source(name)
    return None if source is None else source.name


def _words(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else repr(value)


def read(context: typer.Context) -> tuple[Path | None, dict[str, Any]]:
    """Return the nearest pyproject.toml, and what it says for a command, by the names of its parameters.

    Raises:
        OptionError: the file cannot be read, or has a key or a value that means nothing.
    """
    path = nearest()
    table = {} if path is None else table_of(path)
    if path is None or not table:
        return None, {}
    commands: Mapping[str, Any] = getattr(context.parent and context.parent.command, "commands", {})
    shared, own = {}, {}
    for key, value in table.items():
        if isinstance(value, dict):
            if key not in commands:
                raise _wrong(path, f"there is no command {key!r}", _meant(key, commands))
            checked = {name: _checked(path, key, name, each, {key: commands[key]}) for name, each in value.items()}
            if key == context.info_name:
                own = checked
        else:
            shared[key] = _checked(path, None, key, value, commands)
    here = {each.name for each in context.command.params}
    chosen = {key.replace("-", "_"): value for key, value in {**shared, **own}.items()}
    chosen = {name: value for name, value in chosen.items() if name in here}
    if "output_dir" in chosen:  # as it is where the file stands, not where the user happens to be
        chosen["output_dir"] = str(path.parent / chosen["output_dir"])
    return path, chosen


def nearest() -> Path | None:
    """Return the pyproject.toml of the current folder, or of the first folder above it that has one."""
    try:
        here = Path.cwd()
    except OSError:  # the current folder is gone
        return None
    return next((folder / FILE for folder in (here, *here.parents) if _is_file(folder / FILE)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be searched
        return False


def table_of(path: Path) -> dict[str, Any]:
    """Return the table of a pyproject.toml; it is empty where there is none.

    Raises:
        OptionError: the file cannot be read, or is no TOML.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _wrong(path, (error.strerror or str(error)).lower(), "make it readable") from error
    if b"wnconvert" not in data:  # of others nothing is asked, not even that they are TOML
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        whole = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"it is no TOML: {error}", "put that right") from error
    tools = whole.get("tool", {})
    table = tools.get("wnconvert", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise _wrong(path, f"tool.wnconvert is {table!r}", "make it a table, [tool.wnconvert]")
    return table


def _checked(path: Path, table: str | None, key: str, value: Any, commands: Mapping[str, Any]) -> Any:
    """Return the value of a key, if each of the commands that have such an option takes it."""
    name = key.replace("-", "_")
    having = [(command, each) for command in commands.values() for each in command.params if each.name == name]
    if key not in ALLOWED or not having:
        known = [each for each in ALLOWED if any(_has(command, each) for command in commands.values())]
        if any(f"--{key}" in each.opts for _, each in having):
            raise _wrong(path, f"{key!r} is not for a project to set", "say it in each call that wants it")
        raise _wrong(path, f"there is no option {key!r}{f' of {table}' if table else ''}", _meant(key, known))
    for command, parameter in having:
        wanted, fits = _kind(parameter)
        if not fits(value):
            raise _wrong(path, f"{key!r} is {value!r}", f"make it {wanted}")
        try:
            parameter.process_value(typer.Context(command), value)
        except typer.TyperException as error:
            text = " ".join(error.message.split())
            raise _wrong(path, f"{key!r} is {value!r}", f"see 'wnconvert {command.name} --help': {text}") from None
    return value


def _has(command: Any, key: str) -> bool:
    return any(f"--{key}" in each.opts for each in command.params)


def _kind(parameter: Any) -> tuple[str, Any]:
    """Return what the value of an option must be, in words, and what tells whether one is that."""
    if parameter.is_flag:
        return "true or false", lambda value: isinstance(value, bool)
    if parameter.multiple:
        return "a list of texts", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value)
    if isinstance(parameter.default, float):
        return "a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(parameter.default, int):
        return "a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)
    return "a text", lambda value: isinstance(value, str)


def _meant(key: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def _wrong(path: Path, what: str, way_out: str) -> OptionError:
    return OptionError(f"[tool.wnconvert] in {str(path)!r}: {what}; {way_out}")
