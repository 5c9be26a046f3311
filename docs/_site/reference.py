"""The pages of reference: the command line from its app, the API from the public names."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from typer.main import get_command

import wnconvert
from wnconvert_cli import exits
from wnconvert_cli.main import app

#: what files are converted by has a page of its own, for its names stand in another package
FILES = "wnconvert.checkpoint"


def command_line() -> str:
    """Return a page with each command, its arguments and its options, as the app has them."""
    whole = get_command(app)
    lines = ["# Command line", "", _plain(whole.help), ""]
    for name, command in sorted(whole.commands.items()):  # type: ignore[attr-defined]
        lines += [f"## wnconvert {name}", "", _text(command.help), ""]
        lines += ["| Argument or option | What it does |", "| --- | --- |"]
        lines += [f"| {_spelled(each)} | {_cell(getattr(each, 'help', None))} |" for each in command.params]
        lines.append("")
    lines += ["## Exit codes", "", "| Code | Meaning |", "| --- | --- |"]
    lines += [f"| {code} | {meaning} |" for code, meaning in exits.MEANINGS.items()]
    order = ", ".join(map(str, exits.ORDER[:6]))
    lines += ["", f"Of several inputs the worst counts, in the order {order}.", ""]
    return "\n".join(lines)


def api() -> str:
    """Return a page that asks mkdocstrings for each public name of the package, where it is defined."""
    lines = ["# Python", "", "All of these are names of `wnconvert`. Files have [names of their own](files.md).", ""]
    for name in wnconvert.__all__:
        lines += [f"## `{name}`", "", f"::: {_home(wnconvert, name)}.{name}", ""]
    return "\n".join(lines)


def files() -> str:
    """Return a page that asks mkdocstrings for each public name of the package of files."""
    package = importlib.import_module(FILES)
    lines = ["# Files in Python", "", f"All of these are names of `{FILES}`.", ""]
    for name in package.__all__:
        lines += [f"## `{name}`", "", f"::: {_home(package, name)}.{name}", ""]
    return "\n".join(lines)


def _home(package: ModuleType, name: str) -> str:
    """Return the module that defines a public name, as the package itself says."""
    for module, names in package._NAMES_IN.items():
        if name in names:
            return module if module.startswith("wnconvert.") else f"{package.__name__}.{module}"
    raise ValueError(f"{package.__name__!r} does not say where {name!r} is defined")


def _spelled(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    return ", ".join(f"`{each}`" for each in names)


def _plain(text: str | None) -> str:
    return re.sub(r"\[/?\w+\]", "", text or "").replace("\b\n", "")


def _text(text: str | None) -> str:
    """Return help as Markdown: what stands in columns or shows commands stays as it is."""
    return "\n\n".join(
        f"```text\n{part.strip()}\n```" if re.search(r"^\s*\$ ", part, re.MULTILINE) else part
        for part in _plain(text).split("\n\n")
    )


def _cell(text: str | None) -> str:
    return " ".join(_plain(text).replace("|", "\\|").replace("<", "&lt;").split())
