"""``-``: checkpoints that come from standard input, or go to standard output."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from typer.testing import CliRunner

from tests.checkpoint.formats.samples import model_folder
from tests.cli.conftest import run
from wnconvert.checkpoint import FORMATS, difference, load
from wnconvert.checkpoint.storage import scratch
from wnconvert.errors import OptionError, OutputError
from wnconvert_cli import streams
from wnconvert_cli.streams import STREAM

FILES = [name for name in FORMATS if FORMATS.get(name).not_written is None and not FORMATS.get(name).folder]


class Streamed(NamedTuple):
    code: int
    out: bytes
    err: str


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which must be empty afterwards."""
    folder = tmp_path / "kept"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def stream(given: bytes, *arguments: object) -> Streamed:
    """Run a command with bytes on standard input."""
    from wnconvert_cli.main import app

    result = CliRunner().invoke(app, [str(each) for each in arguments], input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not list(Path(tempfile.gettempdir()).iterdir()), "something was left behind"
    return Streamed(result.exit_code, result.stdout_bytes, result.stderr)


@pytest.mark.parametrize("name", FILES)
def test_what_goes_through_streams_is_what_goes_through_files(folder: Path, plain: Path, name: str) -> None:
    torch.save(torch.load(plain)["model"], "flat.pt")
    assert run("apply", "flat.pt", "--format", name, "-o", "in").code == 0
    assert run("fold", "in", "-o", "file").code == 0
    given = Path("in").read_bytes()
    for arguments in (["fold", "-"], ["fold", "-", "-o", "-"], ["fold", "in", "-o", "-"]):
        outcome = stream(given, *arguments)
        assert outcome.code == 0, outcome.err
        Path("out").write_bytes(outcome.out)
        assert difference(load("file").content, load("out").content) is None
        assert not FORMATS.get(name).annotated or outcome.out == Path("file").read_bytes()
        assert "written:   - (" in outcome.err


@pytest.mark.parametrize("name", FILES)
def test_a_record_that_has_no_place_is_named(folder: Path, plain: Path, name: str) -> None:
    torch.save(torch.load(plain)["model"], "flat.pt")
    outcome = stream(b"", "apply", "flat.pt", "-o", "-", "--format", name)
    assert outcome.code == 0, outcome.err
    assert ("has no place for the record" in outcome.err) is not FORMATS.get(name).annotated
    Path("out").write_bytes(outcome.out)
    assert ("wnconvert" in load("out").metadata) is FORMATS.get(name).annotated


def test_standard_output_holds_the_checkpoint_alone(folder: Path, plain: Path, module: str) -> None:
    (folder / "talks.py").write_text(
        f"import {module}\n\ndef build():\n    print('talks')\n    return {module}.build()\n"
    )
    given = Path("net.pt").read_bytes()
    outcome = stream(given, "apply", "-", "--model", "talks:build", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(b"PK")
    assert b"talks" not in outcome.out
    document = json.loads(outcome.err[outcome.err.index("{") :])
    assert (document["files"][0]["input"], document["files"][0]["output"]) == ("-", "-")


def test_another_container_goes_to_standard_output_and_folders_do_not(folder: Path, plain: Path) -> None:
    model_folder(folder / "net")
    outcome = stream(b"", "fold", "net", "-o", "-")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "is a folder, which cannot go to standard output; give -o, or --format" in outcome.err
    outcome = stream(b"", "fold", "net", "-o", "-", "--format", "safetensors", "-q")
    Path("out.safetensors").write_bytes(outcome.out)
    assert load("out.safetensors").content.keys() >= {"up.weight"}
    assert outcome.err == ""


def test_an_input_that_is_a_stream_may_have_an_output_that_is_none(folder: Path, plain: Path) -> None:
    before = os.umask(0o027)
    try:
        assert stream(plain.read_bytes(), "apply", "-", "-o", "out.pt").code == 0
    finally:
        os.umask(before)
    assert Path("out.pt").stat().st_mode & 0o777 == 0o640, "where there is no input file, the umask decides"
    assert b"dry run" in stream(plain.read_bytes(), "apply", "-", "--dry-run").out


def test_a_file_that_is_redirected_gives_its_mode(folder: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.chmod(0o600)
    with plain.open() as opened:
        monkeypatch.setattr(sys, "stdin", opened)
        with streams.received(STREAM) as path:
            assert path.read_bytes() == plain.read_bytes()
            assert path.stat().st_mode & 0o777 == 0o600


def test_inspect_and_verify_take_streams(folder: Path, plain: Path) -> None:
    given = plain.read_bytes()
    assert b"- (torch zip, " in stream(given, "inspect", "-").out
    document = json.loads(stream(given, "inspect", "-", "--json").out)
    assert (document["files"][0]["input"], document["files"][0]["bytes"]) == ("-", len(given))
    assert stream(given, "verify", "-", plain).code == 0
    assert stream(given, "verify", plain, "-").code == 0
    torch.save({"model": {"0.weight": torch.ones(4, 1, 3, 3)}}, "other.pt")
    assert stream(given, "verify", "other.pt", "-").code == 4
    outcome = stream(given, "verify", "-", "-")
    assert (outcome.code, "both are '-'" in outcome.err) == (2, True)


@pytest.mark.parametrize("arguments", [["-", "model.pt"], ["model.pt", "-"], ["-", "-d", "."]])
def test_a_stream_goes_alone(folder: Path, plain: Path, arguments: list[str]) -> None:
    outcome = stream(plain.read_bytes(), "apply", *arguments)
    assert (outcome.code, outcome.out) == (2, b"")
    assert "input '-' is standard input, which has no name" in outcome.err
    assert [path.name for path in folder.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "error: '-' is empty"),
        (b"nonsense", "error: '-' is no checkpoint of a known kind"),
        (b"PK\x03\x04", "error: '-' is a zip archive"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{", "error: '-' is cut short or damaged"),
    ],
)
@pytest.mark.parametrize("command", ["apply", "inspect"])
def test_what_is_no_checkpoint_is_called_by_its_dash(folder: Path, command: str, given: bytes, message: str) -> None:
    outcome = stream(given, command, "-")
    assert (outcome.code, outcome.out) == (1, b"")
    assert outcome.err.startswith(message)
    assert outcome.err.count("\n") == 1


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stands", [Terminal(), None], ids=["terminal", "closed"])
def test_a_terminal_and_what_is_closed_are_refused(monkeypatch: pytest.MonkeyPatch, stands: object) -> None:
    monkeypatch.setattr(sys, "stdin", stands)
    with pytest.raises(OptionError, match="nothing is redirected"), streams.received(STREAM):
        pass
    monkeypatch.setattr(sys, "stdout", stands)
    with pytest.raises(OptionError, match="is not redirected"), streams.reserved():
        pass


def test_what_a_killed_run_kept_is_removed_by_the_next(folder: Path, plain: Path, kept: Path) -> None:
    left, lock = scratch._make(kept)
    (left / "new" / "-").write_bytes(b"half")
    os.close(lock)  # as the system does where a process is killed
    assert stream(plain.read_bytes(), "inspect", "-").code == 0
    assert not left.exists()


def test_a_failure_sends_nothing(folder: Path, plain: Path) -> None:
    outcome = stream(plain.read_bytes(), "fold", "-")
    assert (outcome.code, outcome.out) == (3, b"")


def test_where_there_is_no_room_the_way_out_is_said(folder: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streams.shutil, "copyfileobj", full)
    message = r"cannot keep standard input in .*no space left on device; TMPDIR names"
    with pytest.raises(OutputError, match=message), streams.received(STREAM):
        pass


def test_where_standard_output_is_full_that_is_an_error(
    folder: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="cannot write '-': no space left"), streams.sent(STREAM, Full()) as path:
        path.write_bytes(b"checkpoint")


@pytest.mark.skipif(os.name != "posix", reason="the shell is that of POSIX")
def test_commands_work_in_a_pipe(folder: Path, plain: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    command = f"{sys.executable} -m wnconvert"
    line = f"{command} apply - -q < model.pt | {command} fold - -q | {command} verify - model.pt --json"
    done = subprocess.run(["sh", "-c", line], capture_output=True, cwd=folder, env=environment, timeout=300, check=True)
    assert done.stderr == b""
    assert json.loads(done.stdout)["comparison"]["passed"]
    head = f"{command} apply model.pt -q -o - | head -c 4"
    done = subprocess.run(["sh", "-c", head], capture_output=True, cwd=folder, env=environment, timeout=300, check=True)
    assert (done.stdout, done.stderr) == (b"PK\x03\x04", b"")
