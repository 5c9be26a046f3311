from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wnconvert
from tests.cli.conftest import NO_TORCH, run, run_fresh, run_process, sha
from wnconvert import errors


@pytest.mark.parametrize("command", [[], ["apply"], ["fold"], ["inspect"], ["schemes"]], ids=" ".join)
def test_help_never_imports_torch(command: list[str], tmp_path: Path) -> None:
    done = run_fresh(*command, "--help", cwd=tmp_path, code=NO_TORCH)
    assert done.code == 0, done.err
    assert "Usage: wnconvert" in done.out
    assert "HEAVY" not in done.out


def test_help_imports_nothing_that_only_commands_need(tmp_path: Path) -> None:
    code = "import atexit, sys\natexit.register(lambda: print('IMPORTED', *sys.modules))"
    imported = set(run_fresh("--help", cwd=tmp_path, code=code).out.partition("IMPORTED ")[2].split())
    assert "wnconvert_cli.main" in imported
    assert not imported & {"ctypes", "hashlib", "wnconvert.report"}


def test_the_check_for_torch_can_fail(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_bytes(b"no checkpoint")
    assert "HEAVY" in run_fresh("fold", "there.pt", cwd=tmp_path, code=NO_TORCH).out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("--version", 0, "wnconvert "),
        ("schemes", 0, "weight_norm "),
        ("schemes weight_norm --json", 0, '"schema": 1'),
        ("layouts", 0, "parametrization"),
        ("apply gone.pt", 1, "no such file: 'gone.pt'"),
        ("fold gone.pt x*.pt", 1, "no file matches 'x*.pt'"),
        ("migrate gone.pt --to hook --json", 1, '"CheckpointError"'),
        ("inspect gone.pt empty.pt", 1, "'empty.pt' is empty"),
        ("verify there.pt gone.pt", 1, "no such file: 'gone.pt'"),
        ("apply there.pt --like gone.pt", 1, "no such file: 'gone.pt'"),
        ("fold there.pt --adapter gone", 1, "no such file: 'gone'"),
        ("migrate there.pt --adapter gone --to hook", 1, "no such file: 'gone'"),
        ("apply there.pt --bogus", 2, "No such option"),
        ("apply there.pt -s weight_nrom", 2, "did you mean 'weight_norm'"),
        ("apply there.pt -O p=3", 2, "must be 1, 2 or inf"),
        ("apply there.pt --dim x", 2, "--dim is 'x'"),
        ("apply there.pt --layout nfnets", 2, "unknown layout 'nfnets'"),
        ("apply there.pt --layout dora", 2, "cannot be written"),
        ("apply there.pt --layout biggan --dim 0", 2, "keeps one of its own"),
        ("apply there.pt --layout biggan -O p=1", 2, "--layout says how"),
        ("apply there.pt --like there.pt -s weight_norm", 2, "--like says which"),
        ("apply there.pt --op conv2d", 2, "--op needs --model"),
        ("fold there.pt --preset tim", 2, "unknown layout 'tim'"),
        ("fold there.pt --format safetensor", 2, "did you mean 'safetensors'"),
        ("fold there.pt --trust --state-dict", 2, "give one of the two"),
        ("fold there.pt -o x.pt -d .", 2, "give one of the two"),
        ("fold there.pt empty.pt -o x.pt", 2, "there are several inputs"),
        ("fold there.pt -d none", 1, "is no existing folder"),
        ("fold there.pt -o there.pt", 1, "is the input itself"),
        ("fold there.pt -o empty.pt", 1, "exists; give --force"),
        ("fold there.pt -o folder", 1, "is a directory that exists; give --output-dir"),
        ("fold there.pt -o none/x.pt", 1, "in no existing folder"),
        ("verify there.pt empty.pt --dim output", 2, "--dim is 'output'"),
        ("verify there.pt empty.pt --preset tim", 2, "unknown layout 'tim'"),
    ],
)
def test_what_needs_no_look_into_a_file_is_told_without_torch(
    arguments: str, code: int, told: str, tmp_path: Path
) -> None:
    (tmp_path / "there.pt").write_bytes(b"no checkpoint")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder").mkdir()
    done = run_fresh(*arguments.split(), cwd=tmp_path, code=NO_TORCH)
    assert done.code == code, done.err
    assert told in done.out + " ".join(done.err.split())
    assert "HEAVY" not in done.out


@pytest.mark.parametrize("arguments", [[], ["apply"], ["fold"], ["inspect"]], ids=" ".join)
def test_without_arguments_there_is_help(arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert "Usage:" in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


def test_the_version_is_shown() -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"wnconvert {wnconvert.__version__}\n")


@pytest.mark.parametrize("package", ["wnconvert", "wnconvert_cli"])
def test_python_runs_the_packages_as_the_command(package: str, plain: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}

    def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", package, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert ask("--version").stdout == f"wnconvert {wnconvert.__version__}\n"
    assert f"Usage: python -m {package} fold" in ask("fold").stdout
    done = ask("fold", plain)
    assert (done.returncode, done.stderr[:27]) == (3, "error: nothing to convert: ")


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
