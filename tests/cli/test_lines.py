"""Texts from a file, on a terminal."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.cli.conftest import run


def test_names_in_a_file_cannot_steer_the_terminal(folder: Path) -> None:
    torch.save({"\x1b[2J[bold]\n\ud800.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}, "hostile.pt")
    for command in (["inspect", "hostile.pt"], ["apply", "hostile.pt"], ["apply", "hostile.pt", "-i", "c", "--force"]):
        outcome = run(*command)
        assert "\x1b" not in outcome.out + outcome.err
    assert r"\x1b[2J[bold]\n\ud800.weight" in run("inspect", "hostile.pt").out
