from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import NO_TORCH, run, run_fresh, run_process, sha
from wnconvert import errors


@pytest.mark.parametrize("command", [[], ["apply"], ["fold"], ["inspect"], ["schemes"]], ids=" ".join)
def test_help_never_imports_torch(command: list[str], tmp_path: Path) -> None:
    done = run_fresh(*command, "--help", cwd=tmp_path, code=NO_TORCH)
    assert done.code == 0, done.err
    assert "Usage: wnconvert" in done.out
    assert "HEAVY" not in done.out


def test_the_check_for_torch_can_fail(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_bytes(b"no checkpoint")
    assert "HEAVY" in run_fresh("fold", "there.pt", cwd=tmp_path, code=NO_TORCH).out


def test_the_schemes_are_listed_without_torch(tmp_path: Path) -> None:
    done = run_fresh("schemes", cwd=tmp_path, code=NO_TORCH)
    assert "weight_norm " in done.out
    assert "HEAVY" not in done.out


@pytest.mark.parametrize("arguments", [[], ["apply"], ["fold"], ["inspect"]], ids=" ".join)
def test_without_arguments_there_is_help(arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert "Usage:" in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


def test_the_version_is_shown() -> None:
    outcome = run("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("wnconvert ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownNameError, 2),
        (errors.OptionError, 2),
        (errors.NothingToConvertError, 3),
        (errors.VerificationError, 4),
        (errors.CheckpointError, 1),
        (errors.UnsafePickleError, 1),
        (errors.OutputError, 1),
        (errors.TracingError, 1),
        (PermissionError, 1),
    ],
)
def test_errors_have_exit_codes(
    error: type[Exception], code: int, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error("told\nin two lines")

    monkeypatch.setattr("wnconvert.checkpoint.load", fail)
    outcome = run("inspect", plain)
    assert outcome.code == code
    assert outcome.error == "told in two lines"
    assert outcome.out == ""


def test_an_interrupt_is_one_line(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wnconvert.checkpoint.load", interrupt)
    outcome = run("apply", plain)
    assert outcome.code == 130
    assert outcome.error == "interrupted; nothing was written"


def test_a_bug_keeps_its_traceback(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("wnconvert.checkpoint.load", bug)
    with pytest.raises(ZeroDivisionError):
        run("inspect", plain)


#: a command whose process gets a signal while it verifies what it wrote
STOPPED = """
import os, signal, sys
# a shell that runs the tests in the background makes its children ignore SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
number = int(sys.argv.pop(1))
import wnconvert.checkpoint as c
def stop(*args):
    print(len(os.listdir()), flush=True)
    signal.raise_signal(number)
    raise AssertionError("it goes on")
c.verify_apply = stop
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process that gets SIGTERM at once")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stopped_conversion_leaves_nothing(folder: Path, signum: signal.Signals) -> None:
    source = folder / "large.pt"
    torch.save({f"{i}.weight": torch.ones(64, 64) for i in range(40)}, source)
    before = sha(source)
    outcome = run_process(int(signum), "apply", source, cwd=folder, code=STOPPED)
    assert outcome.out == "2\n", "there must be a temporary file to clean up"
    assert outcome.code == 128 + signum
    assert "Traceback" not in outcome.err
    assert [path.name for path in folder.iterdir()] == ["large.pt"]
    assert sha(source) == before
