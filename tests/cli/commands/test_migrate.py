from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.cli.conftest import report, run, sha
from wnconvert.checkpoint import difference, load


@pytest.fixture
def hooked(folder: Path) -> Path:
    """A generator with torch's hooks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 4)), nn.utils.spectral_norm(nn.Linear(2, 3)))
    torch.save({"generator": net.state_dict(), "steps": 7}, folder / "g.pt")
    return folder / "g.pt"


def test_a_file_is_migrated_there_and_back(hooked: Path) -> None:
    before = sha(hooked)
    there = run("migrate", hooked, "--to", "parametrization")
    assert (there.code, there.err) == (0, "")
    rows, x = [line.split() for line in there.out.splitlines()], "\N{MULTIPLICATION SIGN}"
    assert ["weight", "shape", "kept", "dim", "parts"] in rows
    assert ["generator.0.weight", f"3{x}2{x}4", "0", "original0", "original1"] in rows
    assert ["generator.1.weight", f"3{x}2", "0", "original", "0._u", "0._v"] in rows
    assert "verified:  2 weights bit-identical" in there.out
    own = parametrizations
    twin = nn.Sequential(own.weight_norm(nn.Conv1d(2, 3, 4)), own.spectral_norm(nn.Linear(2, 3)))
    twin.load_state_dict(load("g.parametrization.pt").content["generator"], strict=True)
    assert run("migrate", "g.parametrization.pt", "--to", "hook", "-o", "back.pt").code == 0
    assert difference(load(hooked).content, load("back.pt").content) is None
    assert sha(hooked) == before


def test_json_and_dry_run(hooked: Path) -> None:
    outcome = run("migrate", hooked, "--to", "parametrization", "--json", "--dry-run")
    data = report(outcome)
    assert (data["exact"], data["output"], len(data["converted"])) == (True, None, 2)
    assert [path.name for path in hooked.parent.iterdir()] == ["g.pt"]


def test_what_is_there_already_is_nothing_to_do(hooked: Path) -> None:
    outcome = run("migrate", hooked, "--to", "hook")
    assert outcome.code == 3
    assert outcome.error == "nothing to migrate: already spelled as a hook (2 weights)"


def test_the_target_is_required_and_known(hooked: Path) -> None:
    assert run("migrate", hooked).code == 2
    assert run("migrate", hooked, "--to", "hooks").code == 2
    outcome = run("migrate", hooked, "--to", "parametrization", "--dim", "output")
    assert outcome.code == 2
    assert outcome.error.startswith("--dim is 'output'")


def test_a_part_can_be_migrated(hooked: Path) -> None:
    assert run("migrate", hooked, "--to", "parametrization", "-x", "1").code == 0
    keys = list(load("g.parametrization.pt").content["generator"])
    assert "1.weight_orig" in keys
    assert "0.parametrizations.weight.original0" in keys


def test_the_container_may_change_too(hooked: Path) -> None:
    torch.save(load(hooked).content["generator"], "flat.pt")
    assert run("migrate", "flat.pt", "--to", "parametrization", "--format", "safetensors").code == 0
    assert run("verify", "flat.pt", "flat.parametrization.safetensors").code == 0
