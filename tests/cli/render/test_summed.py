"""The last lines: whether all was done that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli.conftest import run
from wnconvert.reasons import Why
from wnconvert.report import Converted, Report, Skipped
from wnconvert_cli.render import counts


@pytest.fixture
def half(folder: Path) -> Path:
    """Of these two weights one can be folded: on a square matrix nothing shows which dim a spectral norm keeps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.utils.spectral_norm(nn.Linear(4, 4)))
    torch.save(net.state_dict(), "half.pt")
    return folder / "half.pt"


def test_what_was_not_asked_for_does_not_count() -> None:
    entry = Converted("a.weight", "", "weight_norm", ())
    others = (Why.NOT_CHOSEN(), Why.ALREADY_PLAIN())
    skipped = tuple(Skipped("b.weight", "", reason) for reason in others)
    assert counts(Report((entry,), skipped)) == "1 converted"
    assert counts(Report((entry,), (*skipped, Skipped("c.weight", "", Why.NON_FINITE())))) == "1 converted, 1 NOT"


def test_a_partial_conversion_says_so_in_the_end(half: Path) -> None:
    outcome = run("fold", half, "--dry-run")
    assert outcome.code == 0
    assert outcome.out.endswith("partial:   1 converted, 1 NOT (--strict makes that a failure)\n")
    assert "NOT" not in run("fold", half, "--dry-run", "--dim", "0").out
    assert run("fold", half, "--dry-run", "--quiet").err == "warning: 1 converted, 1 NOT\n"
    assert run("fold", half, "--dry-run", "--quiet", "--dim", "0").err == ""


def test_several_files_are_told_a_line_each_and_counted(half: Path, plain: Path) -> None:
    torch.save(nn.utils.weight_norm(nn.Linear(3, 4)).state_dict(), "all.pt")
    outcome = run("fold", "all.pt", half, plain, "gone.pt")
    told = [line for line in outcome.out.splitlines(keepends=True) if not line.startswith("loaded by: ")]
    assert "".join(told) == (
        "all.pt: 1 converted (weight_norm), all.folded.pt\n"
        f"{half}: 1 converted, 1 NOT (weight_norm), {half.with_name('half.folded.pt')}\n"
        "4 files: 1 converted, 1 converted in part, 1 with nothing to do, 1 failed\n"
    )
    assert run("inspect", "all.pt", half, "gone.pt").out.endswith("3 files: 2 inspected, 1 failed\n")
    assert run("fold", "all.pt", half, "--quiet", "--force").out == ""


def test_what_loads_the_outputs_of_several_files_is_told_once_each(folder: Path) -> None:
    net = nn.utils.weight_norm(nn.Linear(3, 4))
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    net(torch.ones(3)).sum().backward()
    optimizer.step()
    for name in ("a.pt", "b.pt"):
        torch.save(net.state_dict(), name)
    torch.save({"g": net.state_dict(), "d": nn.Linear(2, 2).state_dict(), "o": optimizer.state_dict()}, "c.pt")
    told = [line for line in run("fold", "a.pt", "b.pt").out.splitlines() if line.startswith("loaded by: ")]
    assert [line[:39] for line in told] == ["loaded by: plain keys ('weight'): build"]
    lines = run("fold", "a.pt", "b.pt", "c.pt", "--force").out.splitlines()
    assert lines[2] == "c.pt: 1 converted (weight_norm), c.folded.pt; optimizer 'o' dropped"
    assert lines[3].endswith(" (a.folded.pt, b.folded.pt)")
    assert "load_into(model, path, only='g')" in lines[4]
    assert lines[4].endswith(" (c.folded.pt)")
    assert lines[5:] == ["3 files: 3 converted"]


def test_the_counts_have_colours(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[33m1 converted, 1 NOT\x1b[0m" in run("fold", half).out
    out = run("fold", half, "gone.pt", "--force").out
    assert "\x1b[33m1 converted in part\x1b[0m" in out
    assert "\x1b[31m1 failed\x1b[0m" in out
