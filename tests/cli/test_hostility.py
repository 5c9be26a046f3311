"""Bombs and mutations of files of every container: nothing hangs, nothing dies, and what is written can be loaded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.checkpoint.bombs import BOMBS, LARGEST
from tests.checkpoint.conftest import CASES
from tests.processes import run_code

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="only POSIX limits time and memory")

#: whether all is tried: ``WNCONVERT_FUZZ`` says how many mutations; else few are, and every second bomb by one command.
ALL = "WNCONVERT_FUZZ" in os.environ
FEW = 70
COUNT = CASES if ALL else FEW
TRIED = list(BOMBS) if ALL else list(BOMBS)[::2]
#: bombs that one test tries.
SHARE = 25
TRY = "import json, sys; from tests.cli import hostility; print(json.dumps(hostility.{}(*json.loads(sys.argv[1]))))"


def tried(function: str, arguments: list[object], folder: Path) -> list[str]:
    done = run_code(
        f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); {TRY.format(function)}",
        json.dumps(arguments),
        cwd=folder,
    )
    assert done.code == 0, done.err
    return json.loads(done.out.splitlines()[-1])


@pytest.mark.parametrize("first", range(0, len(TRIED), SHARE))
def test_no_file_under_a_megabyte_takes_long(first: int, tmp_path: Path) -> None:
    assert tried("explode", [TRIED[first : first + SHARE], *([] if ALL else [1])], tmp_path) == []


@pytest.mark.parametrize("first", range(0, COUNT, max(FEW, COUNT // 20)))
def test_fuzzed_files_hang_nothing_and_break_nothing(first: int, tmp_path: Path) -> None:
    count = min(max(FEW, COUNT // 20), COUNT - first)
    assert tried("fuzz", [count, first], tmp_path) == []


#: what is wrong with commands that do what no command may, to see that it is noticed.
WRONG = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.cli import limited
limited.ready()
def run(arguments, prog_name):
    kind = arguments[0]
    if kind == "hang":
        while True: pass
    if kind == "raise":
        raise ValueError("a bug")
    if kind == "memory":
        bytearray(8 << 30)
    if kind == "code":
        sys.exit(17)
    if kind == "silent":
        sys.exit(1)
    if kind == "chat":
        print("Traceback", file=sys.stderr)
    if kind == "unloadable":
        Path("out").write_bytes(b"PK")
    if kind == "left":
        Path(".wnconvert-1.tmp").touch()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGSEGV)
limited.command_line = lambda: run
kinds = ["hang", "raise", "memory", "code", "silent", "chat", "unloadable", "left", "kill", "good"]
cases = [limited.Case(kind, lambda: None, [[kind]]) for kind in kinds]
print("\\n".join(limited.try_all(cases, Path("here"), seconds=0)))
"""


def test_what_no_command_may_do_is_noticed(tmp_path: Path) -> None:
    done = run_code(WRONG.format(root=str(Path.cwd())), cwd=tmp_path)
    lines = done.out.splitlines()
    expected = (
        *("hang: hang", "raise: raise: raised", "memory: memory: raised", "code: code: exit code 17"),
        *("silent: silent: exit code 1 with 0 errors", "chat: chat: on stderr", "unloadable: unloadable: wrote what"),
        *("left: left: left", "kill: kill"),
    )
    assert len(lines) == len(expected), [line[:40] for line in lines]
    for line, start in zip(lines, expected, strict=True):
        assert start in line


def test_bombs_are_small(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        make(tmp_path / "in")
        assert (tmp_path / "in").stat().st_size < LARGEST, name
