"""Runs a page of documentation: its Python, the files that it makes, and its commands, in their order."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from typer.testing import CliRunner

from wnconvert_cli.main import app

ROOT = Path(__file__).parents[1]
#: a block, with what the comment before it says that it needs, and the title that makes a file of it
BLOCK = re.compile(r"(?:<!-- needs: ([\w, ]+) -->\n+)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)```", re.DOTALL)
#: what is shown, and not run
SHOWN = {"text"}


def run(page: Path, folder: Path) -> list[str]:
    """Run all blocks of a page in a folder; return the packages without which some could not be run.

    The blocks share their names. A block with a title is written into a file of that name, and not run. A line of a
    console that begins with `$` is a command; it exits with 0, or with the code that a comment behind it says.
    """
    names: dict[str, object] = {"__name__": "page"}
    missing: list[str] = []
    for needs, language, title, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        lacking = [each for each in re.findall(r"\w+", needs) if find_spec(each) is None]
        missing += lacking
        if lacking or language in SHOWN:
            continue
        if title:
            target = folder / title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, str(page), "exec"), names)
        elif language == "console":
            _commands(code)
        else:
            raise ValueError(f"a block of {language!r} is neither run nor known to be shown only")
    return sorted(set(missing))


def _commands(code: str) -> None:
    for line in code.splitlines():
        if line.startswith("$ "):
            assert line.startswith("$ wnconvert "), line
            expected = re.search(r"# exit code (\d+)", line)
            result = CliRunner().invoke(app, shlex.split(line.removeprefix("$ wnconvert "), comments=True))
            assert result.exit_code == (int(expected[1]) if expected else 0), (line, result.output, result.exception)
