"""Commands in a process of limited time and memory, and what they leave: judged there, and told in words.

The process is a fork of one that has imported all that commands import, so that the limits are those of the commands
alone. A command that takes longer is killed by the system; one that wants more memory gets none.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from wnconvert import checkpoint
from wnconvert.checkpoint import FORMATS
from wnconvert.checkpoint.storage.opened import Opened

#: seconds of processor time for one command, and bytes of memory for all commands of a process.
SECONDS, MEMORY = 5, 2 << 30
#: what a command may end with.
CODES = {0, 1, 2, 3, 4}
#: how its lines on stderr begin.
LINES = ("error: ", "warning: ", "note: ")
#: where a command writes, if it writes.
OUTPUT = Path("out")
#: what code in a file makes, where it runs.
RAN = "ran"


@dataclass(frozen=True)
class Case:
    """Files, and what is done with them.

    Attributes:
        name: what it is called.
        make: writes the files into the current folder, which is empty.
        commands: the arguments of each.
    """

    name: str
    make: Callable[[], object]
    commands: Sequence[Sequence[str]]


@cache
def command_line() -> Callable[..., object]:
    """Return what runs commands; building it takes longer than most of them."""
    from typer.main import get_command

    from wnconvert_cli import tasks  # noqa: F401 (imported for its effect)
    from wnconvert_cli.main import app

    return get_command(app)


def ready() -> None:
    """Import and build what every process would otherwise import and build anew."""
    command_line()
    torch.set_num_threads(1)  # those of OpenMP are not there after a fork, and would be waited for
    for name in FORMATS:
        FORMATS.get(name)


def try_all(cases: Sequence[Case], folder: Path, seconds: int = SECONDS) -> list[str]:
    """Try each case in an empty folder, as many in one process as it lives; return what is wrong, a line each."""
    wrong: list[str] = []
    done = 0
    while done < len(cases):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            _die_trying(cases[done:], folder, seconds, theirs)
        os.close(theirs)
        with os.fdopen(ours, errors="replace") as file:
            lines = file.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        started = [line[2:] for line in lines if line.startswith("> ")]
        wrong += [line[2:] for line in lines if line.startswith("! ")]
        done = len(cases)
        if code:
            name = started[-1].partition(": ")[0] if started else cases[0].name
            wrong.append(f"{started[-1:]} ended the process: {code}")
            done = next(index for index, case in enumerate(cases) if case.name == name) + 1
    return wrong


def _die_trying(cases: Sequence[Case], folder: Path, seconds: int, report: int) -> None:
    """Try the cases; this process ends with them."""
    try:
        _limit_memory()
        for case in cases:
            for wrong in _try_case(case, folder, seconds, report):
                os.write(report, f"! {case.name}: {wrong}".encode(errors="backslashreplace")[:3000] + b"\n")
    finally:
        os._exit(0)


def _try_case(case: Case, folder: Path, seconds: int, report: int) -> Iterator[str]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    try:
        case.make()
        for command in case.commands:
            said = " ".join(command)
            os.write(report, f"> {case.name}: {said}\n".encode(errors="replace"))
            yield from (f"{said}: {wrong}" for wrong in _try_one(command, seconds))
    except BaseException:  # noqa: BLE001 (whatever it is, it is told)
        yield f"the test itself raised {traceback.format_exc()!r}"


def _limit_memory() -> None:
    status = Path("/proc/self/statm")
    now = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _try_one(command: Sequence[str], seconds: int) -> Iterator[str]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command_line()(list(command), prog_name="wnconvert")
    except SystemExit as end:
        yield from _judged(end.code or 0, err.getvalue())
    except BaseException:  # noqa: BLE001 (whatever it is, it is told)
        yield "raised " + " | ".join(traceback.format_exc().splitlines()[-9:])
    else:
        yield from _judged(0, err.getvalue())
    if os.path.lexists(OUTPUT):
        yield from _loaded(OUTPUT)
    yield from (
        f"left {name!r} behind"
        for name in sorted(map(str, Path().iterdir()))
        if name.startswith((".wnconvert-", "out")) or name == RAN
    )


def _judged(code: object, said: str) -> Iterator[str]:
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code not in CODES:
        yield f"exit code {code}: {lines[-1:]}"
    if code in (1, 3) and len(errors) != 1:
        yield f"exit code {code} with {len(errors)} errors: {lines[:3]}"
    if strange := [line for line in lines if not line.startswith(LINES)]:
        yield f"on stderr: {strange[0]!r:.300}"
    if len(said) > 100_000:
        yield f"{len(said)} characters on stderr"


def _loaded(path: Path) -> Iterator[str]:
    """Load what was written with the library that its kind is from, and remove it."""
    try:
        _load(path)
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is told)
        yield f"wrote what its library cannot load: {type(error).__name__}: {error!s:.200}"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.with_name(f"{path.name}.wnconvert.json").unlink(missing_ok=True)


def _load(path: Path) -> None:
    opened = Opened(path)
    for file in checkpoint.recognise(opened).files(opened) if opened.is_folder else [path]:
        kind = checkpoint.recognise(file).name if file.suffix != ".json" else ""
        if kind == "safetensors":
            safetensors.torch.load_file(file)
        elif kind == "npz":
            with np.load(file) as arrays:
                for name in arrays:
                    assert isinstance(arrays[name], np.ndarray)
        elif kind == "torch_export":
            torch.export.load(io.BytesIO(file.read_bytes()))
        elif kind.startswith("torch"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.load(file, weights_only=False)  # what is written has no objects of unknown code
        elif kind:
            raise AssertionError(f"it is {kind}")


assert sys.platform != "win32"
