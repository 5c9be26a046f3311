"""What a command answers: lines and tables for people while it works, one JSON document for programs at its end.

The document is described in ``docs/json.md``, and by the JSON Schema beside it. Whatever ends the command, there is
exactly one: it grows while the command works, and is printed once, by `told`.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import typer

import wnconvert
from wnconvert.checkpoint.storage import scratch
from wnconvert.errors import WnconvertError
from wnconvert_cli import defaults
from wnconvert_cli.exits import DONE, FAILED, INTERRUPTED, TERMINATED, UNTOLD, USAGE, exit_code, message
from wnconvert_cli.lines import UntoldError, say, tell
from wnconvert_cli.plain import as_json

#: the version of what the document holds; it grows when something is renamed or taken out, not when something is added.
SCHEMA = 1


@dataclass
class Answer:
    """What a command answers, as far as it is known.

    Attributes:
        json: whether a program reads it.
        command: the name of the command, once that is known.
        options: what it was told, by the names of the options.
        defaults: what of that the project says, and in which file.
        warnings: what was said that is of no file.
        files: what came of each input that was worked on.
        inputs: how many there are.
        body: what else the command has to say.
        aside: whether standard output is taken by a checkpoint, so that the document goes to standard error.
        exit_code: how it ended.
        error: why the exit code is another than 0.
    """

    json: bool = False
    command: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    inputs: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    aside: bool = False
    exit_code: int = DONE
    error: dict[str, Any] | None = None
    _worked: bool = False

    @classmethod
    def to(cls, arguments: Sequence[str], commands: Container[str]) -> Answer:
        """Return an empty answer to arguments that are not understood yet, and may never be."""
        ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
        name = next((each for each in ours if not each.startswith("-")), None)
        return cls(json="--json" in ours, command=name if name in commands else None)

    def begin(self, context: typer.Context) -> None:
        """Take down what the command was told."""
        kinds = {each.name: each.param_type_name for each in context.command.params}
        self.command, self._worked = context.info_name, True
        self.options = {name: value for name, value in context.params.items() if kinds.get(name) == "option"}
        self.json = bool(self.options.pop("json", False))
        self.defaults = defaults.used(context)
        if self.defaults is not None and not defaults.quiet(context):
            say("note", defaults.described(self.defaults))

    def warn(self, text: str) -> None:
        """Say what is of no file."""
        self.warnings.append(text)
        say("warning", text)

    def open(self, path: object, **blank: Any) -> dict[str, Any]:
        """Return the entry of an input, to be filled while the work goes on."""
        entry = {"input": str(path), "exit_code": None, "error": None, **blank}
        self.files.append(entry)
        return entry

    def fail(self, code: int, kind: str, text: str, entry: dict[str, Any] | None = None) -> None:
        """Take down why the command ends with another exit code than 0, and of which input that is."""
        error = {"kind": kind, "message": text}
        if entry is not None:
            entry |= {"exit_code": code, "error": error}
        self.exit_code, self.error = code, {**error, "input": entry and entry["input"]}

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain data."""
        for entry in self.files:
            if entry["exit_code"] is None:  # something ended the command in the middle of it
                entry["exit_code"] = self.exit_code
                entry["error"] = self.error and {key: self.error[key] for key in ("kind", "message")}
        return {
            "schema": SCHEMA,
            "version": wnconvert.__version__,
            "command": self.command,
            "options": self.options,
            "defaults": self.defaults,
            "exit_code": self.exit_code,
            "error": self.error,
            "warnings": self.warnings,
            "files": self.files,
            **self.body,
        }

    def cut(self) -> None:
        """Say that an input was cut short while it was read, which ends the process."""
        text = _joined("an input was cut short while it was read", _what_is_done(self))
        self.fail(FAILED, "CheckpointError", text)
        say("error", text)
        self.print()

    def print(self) -> None:
        """Print the document, if a program reads it and there is anything to tell: help is not."""
        if self.json and (self._worked or self.error):
            with redirect_stdout(sys.stderr) if self.aside else nullcontext():
                tell(as_json(self.to_dict()))


@contextmanager
def told(answer: Answer) -> Iterator[None]:
    """Give each error that is raised on purpose one line on stderr and its exit code, and print the document.

    Anything else is a bug of wnconvert and keeps its traceback.
    """
    ending: BaseException | None = None
    scratch.placed.clear()
    try:
        yield
    except BaseException as error:  # noqa: BLE001 (it is raised again below)
        ending = _taken_down(answer, error) or error
    try:
        answer.print()
    except UntoldError as error:
        ending = _taken_down(answer, error)
    if ending is not None:
        raise ending


def _taken_down(answer: Answer, error: BaseException) -> typer.Exit | None:
    """Take down what ended a command, and return how it exits; None if the error says that itself."""
    if isinstance(error, typer.Exit):
        answer.exit_code = error.exit_code
    elif isinstance(error, typer.TyperException):  # typer shows what is wrong with the arguments
        answer.fail(USAGE, "UsageError", " ".join(error.format_message().split()))
    elif isinstance(error, (WnconvertError, OSError)):
        answer.fail(exit_code(error), type(error).__name__, message(error))
        say("error", message(error))
        return typer.Exit(answer.exit_code)
    elif isinstance(error, UntoldError):
        code = answer.exit_code or UNTOLD
        text = _joined(_what_is_done(answer), f"the result cannot be printed: {error}")
        answer.fail(code, "Untold", text)
        answer.json = False
        if not error.unwanted:
            say("error", text)
        return typer.Exit(code)
    elif isinstance(error, KeyboardInterrupt):
        text = _joined("interrupted", _what_is_done(answer))
        answer.fail(INTERRUPTED, "Interrupted", text)
        say("error", text)
        return typer.Exit(INTERRUPTED)
    elif isinstance(error, SystemExit) and error.code == TERMINATED:
        text = _joined("terminated", _what_is_done(answer))
        answer.fail(TERMINATED, "Terminated", text)
        say("error", text)
    else:
        answer.fail(FAILED, type(error).__name__, f"a bug of wnconvert, see the traceback on stderr: {error}")
    return None


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _what_is_done(answer: Answer) -> str:
    """Return what there is of the results; nothing where a command has none but what it prints."""
    if not (scratch.placed or "output" in answer.options):
        return ""
    done = sum(entry["exit_code"] == DONE for entry in answer.files)
    if done and answer.inputs > 1:
        return f"{done} of {answer.inputs} files done before, nothing written of the others"
    return f"{str(scratch.placed[-1])!r} was written" if scratch.placed else "nothing was written"
