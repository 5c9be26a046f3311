"""What is printed for people."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.cli.conftest import run, run_process


def test_shared_parts_are_shown(plain: Path) -> None:
    rows = [line.split() for line in run("apply", plain, "-s", "network_norm").out.splitlines()]
    assert ["model.2.weight", "3\N{MULTIPLICATION SIGN}16", "0", "1", "network_v", "+", "network_g"] in rows


def test_skipped_weights_are_listed_by_reason(plain: Path) -> None:
    outcome = run("apply", plain, "-i", "0")
    assert "skipped:   not included by '0' (model.2.weight and 1 more)" in outcome.out


def test_many_alike_weights_share_a_row(folder: Path) -> None:
    torch.save({f"blocks.{i}.{j}.weight": torch.ones(2, 3) for i in range(30) for j in range(2)}, "many.pt")
    outcome = run("apply", "many.pt")
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("  ")]
    assert [row[:2] for row in rows] == [["weight", "count"], ["blocks.*.*.weight", "60"]]


def test_a_narrow_encoding_does_not_matter(plain: Path, folder: Path) -> None:
    code = "import sys; sys.stdout.reconfigure(encoding='ascii')"
    outcome = run_process("apply", plain, cwd=folder, code=code)
    assert outcome.code == 0, outcome.err
    assert "4?1?3?3" in outcome.out
