"""How two files differ, as it is shown."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.cli.conftest import run


def test_what_differs_is_listed_with_its_figures(folder: Path) -> None:
    weight = torch.ones(2, 2)
    torch.save({"a.weight": weight, "b.weight": weight, "c.weight": weight}, "first.pt")
    torch.save({"a.weight": weight, "b.weight": weight * 1.5}, "second.pt")
    outcome = run("verify", "first.pt", "second.pt")
    assert outcome.code == 4
    assert ["b.weight", "plain", "0.5", "0.5", "4194304"] in [line.split() for line in outcome.out.splitlines()]
    assert "missing:   1 tensor only in first.pt (c.weight)" in outcome.out
    assert "identical: 1 of 2" in outcome.out
    assert "verdict:   different" in outcome.out


def test_many_that_differ_are_counted(folder: Path) -> None:
    for name, value in (("first.pt", 1.0), ("second.pt", 2.0)):
        torch.save({f"{i}.weight": torch.full((2, 2), value) for i in range(25)}, name)
    assert "... 5 more" in run("verify", "first.pt", "second.pt").out
