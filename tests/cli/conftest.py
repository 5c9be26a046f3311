"""The command line as a user meets it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tests.cli import documents
from tests.processes import run_code

#: a module for ``--model``: no annotations, for torch.fx keeps them as texts that it cannot pickle.
MODEL_CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, image, index):
        return self.head(self.up(self.conv(image)).mean((2, 3)) + self.embed(index))

def build():
    print("building")
    torch.manual_seed(0)
    return Net()

def fail():
    raise RuntimeError("first line\\nsecond line")

def number():
    return 7
"""


@dataclass(frozen=True)
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failure."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"not one line on stderr: {self.err!r}"
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def run(*arguments: object) -> Outcome:
    """Run a command in this process; only exits are expected, never an exception."""
    from wnconvert_cli.main import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


#: a command, as a process runs it
MAIN = "from wnconvert_cli.main import app\napp(prog_name='wnconvert')"


def run_process(*arguments: object, cwd: Path, code: str = "") -> Outcome:
    """Run a command in another process, after ``code``."""
    done = run_code(f"{code}\n{MAIN}", *arguments, cwd=cwd)
    return Outcome(done.code, done.out, done.err)


def run_fresh(*arguments: object, cwd: Path, code: str = "") -> Outcome:
    """Run a command in a process that has imported nothing so far, after ``code``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{MAIN}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Piped output is not cut to a width, unless the user gives one; pytest-xdist gives its workers one."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return path


@pytest.fixture
def module(folder: Path) -> str:
    """Name of a module in the working directory with factories for ``--model``; its net's state is in net.pt."""
    name = f"net_{folder.parent.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(MODEL_CODE)
    namespace: dict[str, Any] = {"__name__": name}
    exec(MODEL_CODE, namespace)
    torch.save(namespace["build"]().state_dict(), folder / "net.pt")
    return name


@pytest.fixture
def plain(folder: Path) -> Path:
    """A plain state dict, nested as training scripts nest it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3), nn.Embedding(5, 4))
    path = folder / "model.pt"
    torch.save({"model": net.state_dict(), "epoch": 3}, path)
    return path


@pytest.fixture
def whole(folder: Path) -> Path:
    """A whole pickled module."""
    torch.manual_seed(0)
    path = folder / "whole.pt"
    torch.save(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)), path)
    return path


def document(outcome: Outcome) -> dict[str, Any]:
    """Return the one JSON document that stdout is, held against the schema."""
    data = documents.parse(outcome.out)
    assert data["exit_code"] == outcome.code
    return data


def report(outcome: Outcome) -> dict[str, Any]:
    """Return what came of the one input."""
    assert outcome.code == 0, outcome.err
    (entry,) = document(outcome)["files"]
    return entry


def converted(outcome: Outcome) -> list[str]:
    return [entry["fqn"] for entry in report(outcome)["converted"]]


def check_refused(outcome: Outcome, code: int, message: str, folder: Path, *expected: str) -> None:
    assert outcome.code == code
    assert message in outcome.error
    assert outcome.out == ""
    assert {path.name for path in folder.iterdir()} == set(expected), "something was left behind"


NO_TORCH = """
import atexit, sys
def check():
    heavy = [name for name in ("torch", "safetensors", "numpy") if name in sys.modules]
    if heavy:
        print("HEAVY", heavy, flush=True)
atexit.register(check)
"""
