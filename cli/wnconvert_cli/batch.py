"""Several inputs in one call: which they are, and the work on each, of which one failure does not stop the others."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.opened import require_file
from wnconvert.errors import CheckpointError, WnconvertError
from wnconvert_cli.answer import Answer
from wnconvert_cli.exits import DONE, exit_code, message, worst
from wnconvert_cli.lines import say
from wnconvert_cli.streams import STREAM

#: work on one input, given its entry in the answer, to be filled.
Work: TypeAlias = Callable[[Path, dict[str, Any]], None]


class Input(NamedTuple):
    """One input.

    Attributes:
        path: the file or folder; or a pattern that matches none.
        problem: why there is nothing to read, which is known without reading it.
    """

    path: Path
    problem: CheckpointError | None = None


def expand(given: Sequence[Path]) -> list[Input]:
    """Return the inputs that arguments mean, each once.

    A pattern that the shell did not expand (quoted, or on Windows) means all that it matches, sorted; ``**`` goes into
    folders. A name with brackets that exists means itself.
    """
    found: dict[Path, Input] = {}
    for path in given:
        for each in _meant(path):
            found.setdefault(each.path, each)
    return list(found.values())


def _meant(path: Path) -> list[Input]:
    given = _looked_at(path)
    if given.problem is None or not glob.has_magic(str(path)):
        return [given]
    matching = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 (Path takes no absolute pattern)
    return [*map(_looked_at, matching)] or [Input(path, CheckpointError(f"no file matches {str(path)!r}"))]


def _looked_at(path: Path) -> Input:
    if path == STREAM:
        return Input(path)
    try:
        require_file(path)
    except CheckpointError as problem:
        return Input(path, problem)
    except OSError:  # reading it says more
        return Input(path)
    return Input(path)


def each(inputs: Sequence[Input], work: Work, answer: Answer, **blank: Any) -> Counter[int]:
    """Do the work on each input, take down in the answer what became of it, and return how many ended in which way.

    Args:
        inputs: what to work on.
        work: fills the entry of an input in the answer; its errors become the entry's.
        answer: has an entry for each input then, and the exit code and error of the worst one.
        blank: what an entry has before anything is known.
    """
    answer.inputs = len(inputs)
    for path, problem in inputs:
        entry = answer.open(path, **blank)
        try:
            if problem is not None:
                raise problem
            work(path, entry)
        except BrokenPipeError:
            raise  # nobody reads what the others would give
        except (WnconvertError, OSError) as error:
            _fail(answer, entry, error, alone=len(inputs) == 1)
        else:
            entry["exit_code"] = DONE
    return Counter(entry["exit_code"] for entry in answer.files)


def _fail(answer: Answer, entry: dict[str, Any], error: Exception, *, alone: bool) -> None:
    code, text = exit_code(error), message(error)
    before = answer.error, answer.exit_code
    answer.fail(code, type(error).__name__, text, entry)
    if worst((code, before[1])) == before[1]:  # the first of the worst is the one that counts
        answer.error, answer.exit_code = before
    report = getattr(error, "report", None)
    if report is not None and answer.json:
        entry |= {**report.to_dict(), "missed": len(report.missed)}
    say("error", text if alone or repr(entry["input"]) in text else f"{entry['input']!r}: {text}")


def colliding(outputs: Iterable[tuple[Path, Path]]) -> tuple[Path, Path] | None:
    """Return two inputs with the same output, if there are; given inputs with their outputs."""
    places: dict[Path, Path] = {}
    for path, output in outputs:
        first = places.setdefault(paths.real(output.parent) / output.name, path)
        if first != path:
            return first, path
    return None
