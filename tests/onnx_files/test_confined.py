"""Work in a process of its own gives what it returns, raises what it raises, and may die."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from wnconvert.errors import CheckpointError, NothingToConvertError
from wnconvert.onnx_files import confined as module
from wnconvert.onnx_files.confined import confined
from wnconvert.report import Report


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call a function of this file, confined."""
    (tmp_path / "confined_calls.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, *arguments: confined(f"confined_calls:{name}", [tmp_path / "confined_calls.py"], *arguments)


def give(value: object) -> tuple[object, int]:
    return value, os.getpid()


def refuse() -> None:
    raise NothingToConvertError("nothing", report=Report(notes=("a note",)))


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(7)


def fill() -> int:
    return len(bytearray(1 << 40))


def spin() -> None:
    while True:
        pass


def wrong() -> None:
    raise ZeroDivisionError


def test_it_returns_what_the_function_returns_from_another_process(here: Any) -> None:
    value, process = here("give", {"a": (1, Path("x"))})
    assert value == {"a": (1, Path("x"))}
    assert process != os.getpid()


def test_it_raises_what_the_function_raises(here: Any) -> None:
    with pytest.raises(NothingToConvertError, match="nothing") as caught:
        here("refuse")
    assert caught.value.report.notes == ("a note",)


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals and limits")
@pytest.mark.parametrize(
    ("function", "message"),
    [("die", "died of signal 11"), ("leave", "exit code 7"), ("fill", "more memory"), ("wrong", "exit code 1")],
)
def test_its_death_is_an_error_like_any_other(here: Any, function: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        here(function)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits")
def test_it_does_not_run_for_ever(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 1)
    with pytest.raises(CheckpointError, match="takes more than 1 seconds"):
        here("spin")


def test_what_ends_the_caller_ends_it(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = module.subprocess.Popen

    class Interrupted(popen):  # type: ignore[misc, valid-type]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(module.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        here("spin")
    assert started[0].returncode is not None


def test_modules_of_the_current_folder_are_not_its_own(
    here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "pickle.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(trap)
    monkeypatch.syspath_prepend("")
    assert here("give", 1)[0] == 1
