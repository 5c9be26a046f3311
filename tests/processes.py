"""Other processes that have torch and typer imported when they start, which takes longer than what they are for.

Each is forked from one server that has done nothing but those imports, so it knows nothing of the tests and of its
predecessors, and has not imported wnconvert. Where the platform cannot fork, each starts from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(START_METHOD)
# of typer's modules, the one that it imports when it first reads options; what does not exist is passed over
CONTEXT.set_forkserver_preload(["torch", "safetensors.torch", "typer._adapters", "rich.console"])
TIMEOUT = 300


@dataclass(frozen=True)
class Done:
    """What a process left.

    Attributes:
        code: its exit code; minus the signal that killed it.
        out: what it printed.
        err: what it said on stderr.
    """

    code: int
    out: str
    err: str


def run_code(code: str, *arguments: object, cwd: Path) -> Done:
    """Run a program in a process, as ``python -c`` does, and wait for its end."""
    with started(code, *arguments, cwd=cwd) as (process, out, err):
        process.join(TIMEOUT)
        assert process.exitcode is not None, f"it still runs after {TIMEOUT} seconds"
        return Done(process.exitcode, out.read_text(), err.read_text())


@contextmanager
def started(code: str, *arguments: object, cwd: Path) -> Iterator[tuple[BaseProcess, Path, Path]]:
    """Start a program in a process; give it, and the files that hold what it prints and what it says on stderr.

    The process is killed in the end, if it still runs.
    """
    with TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        task = (code, [str(each) for each in arguments], str(cwd), dict(os.environ), str(out), str(err))
        process = CONTEXT.Process(target=_run, args=task)
        process.start()
        try:
            yield process, out, err
        finally:
            process.kill()
            process.join()


def _run(code: str, arguments: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
