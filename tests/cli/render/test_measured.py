"""The weights of a file, with small distributions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli.conftest import run
from wnconvert_cli.render.measured import BLOCKS, PLAIN, bars_of, spark


@pytest.fixture
def net(folder: Path) -> str:
    torch.manual_seed(0)
    conv, head = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 8, 4)), nn.Linear(8, 4)
    with torch.no_grad():
        head.weight[0] = 0
        head.weight[1] = head.weight[2]
    torch.save(nn.Sequential(conv, head).state_dict(), "net.pt")
    return "net.pt"


def rows(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[next(index for index, line in enumerate(lines) if line.startswith("  weight ")) :]


def test_each_weight_has_a_row(net: str) -> None:
    header, conv, head = rows(run("inspect", net, "--distributions").out)
    assert header.split() == [
        "weight", "shape", "scheme", "norms", "min", "median", "max", "g", "median", "g", "spectral", "odd", "channels",
    ]  # fmt: skip
    assert conv.split()[:3] == ["0.weight", "8\N{MULTIPLICATION SIGN}2\N{MULTIPLICATION SIGN}4", "weight_norm"]
    assert set(BLOCKS[1:]) & set(conv)
    assert head.endswith("1 dead, 1 duplicate")
    assert "spectral" not in run("inspect", net).out


@pytest.mark.parametrize("columns", ["40", "80"])
def test_on_narrow_screens_numbers_stand_below_the_name(
    net: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = run("inspect", net, "--distributions").out.splitlines()
    assert all(len(line) <= int(columns) for line in lines)
    at = next(index for index, line in enumerate(lines) if line.startswith("  1.weight"))
    assert [line.split()[0] for line in lines[at + 1 :] if line.startswith("    ") and line[4] != " "] == [
        "norms", "spectral", "odd",
    ]  # fmt: skip


def test_what_has_no_numbers_has_the_reason(folder: Path) -> None:
    parts = nn.utils.spectral_norm(nn.Linear(4, 4)).state_dict()
    parts["weight_u"] = torch.zeros_like(parts["weight_u"])
    torch.save(parts, "s.pt")
    assert "its parts do not show the kept dim" in rows(run("inspect", "s.pt", "--distributions").out)[1]
    torch.save({"step": 1}, "none.pt")
    assert run("inspect", "none.pt", "--distributions").code == 0


def test_bars_are_drawn_with_what_the_screen_has(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bars_of(name) for name in ("utf-8", None, "ascii", "latin-1", "no such")] == [BLOCKS, BLOCKS, *[PLAIN] * 3]
    monkeypatch.setattr(sys.modules["wnconvert_cli.render.measured"], "bars_of", lambda encoding: PLAIN)
    text = "\n".join(rows(run("inspect", net, "--distributions").out))
    assert text.replace("\N{MULTIPLICATION SIGN}", "x").isascii()


def test_what_is_not_empty_is_seen() -> None:
    assert spark([0, 1, 500, 1000], "0123") == "0123"
    assert spark([0, 0], BLOCKS) == "  "
    assert spark([], BLOCKS) == ""
