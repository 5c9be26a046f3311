"""Texts from a file, on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.conftest import run, run_process


def test_names_in_a_file_cannot_steer_the_terminal(folder: Path) -> None:
    torch.save({"\x1b[2J[bold]\n\ud800.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}, "hostile.pt")
    for command in (["inspect", "hostile.pt"], ["apply", "hostile.pt"], ["apply", "hostile.pt", "-i", "c", "--force"]):
        outcome = run(*command)
        assert "\x1b" not in outcome.out + outcome.err
    assert r"\x1b[2J[bold]\n\ud800.weight" in run("inspect", "hostile.pt").out


#: where writes fail: a disk that is full, and descriptors that are closed
FULL = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), {}); "
CLOSED = "import os, sys; os.close({0}); sys.{1} = None"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="nothing here is always full")
@pytest.mark.parametrize("arguments", [(), ("--json",)], ids=["lines", "json"])
def test_a_result_that_cannot_be_printed_is_no_failure_of_the_conversion(
    plain: Path, folder: Path, arguments: tuple[str, ...]
) -> None:
    outcome = run_process("apply", plain.name, *arguments, cwd=folder, code=FULL.format(1))
    assert outcome.code == 5
    assert outcome.error == (
        "'model.weight_norm.pt' was written; the result cannot be printed: no space left on device"
    )
    assert (folder / "model.weight_norm.pt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="nothing here is always full")
@pytest.mark.parametrize("command", [("schemes",), ("inspect", "model.pt"), ("verify", "model.pt", "model.pt")])
def test_of_a_command_that_writes_no_file_it_is_not_said_that_nothing_was_written(
    plain: Path, folder: Path, command: tuple[str, ...]
) -> None:
    outcome = run_process(*command, cwd=folder, code=FULL.format(1))
    assert (outcome.code, outcome.error) == (5, "the result cannot be printed: no space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="nothing here is always full")
def test_errors_that_cannot_be_printed_change_no_exit_code(plain: Path, folder: Path) -> None:
    outcome = run_process("apply", plain.name, "-O", "p=1", cwd=folder, code=FULL.format(2))
    assert outcome.code == 0
    assert (folder / "model.weight_norm.pt").exists()
    assert run_process("apply", "gone.pt", cwd=folder, code=FULL.format(2)).code == 1


def test_closed_streams_are_told_of_and_get_no_other_file(plain: Path, folder: Path) -> None:
    outcome = run_process("apply", plain.name, cwd=folder, code=CLOSED.format(1, "stdout"))
    assert outcome.code == 5
    assert "'model.weight_norm.pt' was written; the result cannot be printed" in outcome.error
    outcome = run_process("apply", plain.name, "--force", "-q", cwd=folder, code=CLOSED.format(1, "stdout"))
    assert (outcome.code, outcome.err) == (0, "")
    outcome = run_process("apply", plain.name, "--force", cwd=folder, code=CLOSED.format(2, "stderr"))
    assert outcome.code == 0
    assert "verified" in outcome.out


def test_whoever_has_read_enough_hears_nothing_more(plain: Path, folder: Path) -> None:
    closed = "import os; a, b = os.pipe(); os.close(a); os.dup2(b, 1)"
    outcome = run_process("apply", plain.name, cwd=folder, code=closed)
    assert (outcome.code, outcome.err) == (5, "")
    assert (folder / "model.weight_norm.pt").exists()
