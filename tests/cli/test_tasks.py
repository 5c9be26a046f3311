"""What a command makes of a file, and of which files it makes nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.cli.conftest import report, run


def test_outputs_are_named_after_what_is_replayed(folder: Path) -> None:
    torch.manual_seed(0)
    both = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.utils.spectral_norm(nn.Linear(4, 5)))
    for _ in range(20):
        both(torch.randn(2, 3))
    torch.save(both[1].state_dict(), "s.pt")
    torch.save(both.state_dict(), "both.pt")
    for name, suffix in (("s", "spectral_norm"), ("both", "applied")):
        run("fold", f"{name}.pt", "--dim", "0")
        outcome = run("apply", f"{name}.folded.pt", "--json")
        assert report(outcome)["output"] == f"{name}.folded.{suffix}.pt", outcome.err
        assert "does not preserve the function" not in outcome.err


def test_a_spectral_norm_that_would_change_a_weight_is_a_failure(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(nn.utils.spectral_norm(nn.Linear(4, 5)).eval().state_dict(), "s.pt")  # its vectors were never run
    assert run("fold", "s.pt").code == 0
    outcome = run("apply", "s.folded.pt")
    assert outcome.code == 4
    assert outcome.error.startswith("'weight' cannot come back under spectral norm: ")
    assert not Path("s.folded.spectral_norm.pt").exists()
    assert run("apply", "s.folded.pt", "--like", "s.pt", "-o", "back.pt").code == 0
    assert run("verify", "s.pt", "back.pt").code == 0


def test_bad_layouts_are_refused(plain: Path, whole: Path) -> None:
    for more, error in (
        (["nfnets"], "unknown layout 'nfnets'"),
        (["dora"], "layout 'dora' cannot be written"),
        (["nfnet:gama=2"], "preset 'nfnet' has no option 'gama'"),
        (["timm", "-s", "weight_norm"], "scheme is 'weight_norm', but layout 'timm' is for 'weight_standardization'"),
        (["biggan", "--dim", "0"], "dim is 0, but layout 'biggan' keeps one of its own"),
        (["biggan", "-O", "p=1"], "--layout says how"),
        (["biggan", "--like", "model.pt"], "--layout says how"),
    ):
        outcome = run("apply", plain, "--layout", *more)
        assert (outcome.code, outcome.out) == (2, ""), more
        assert outcome.error.startswith(error)
    outcome = run("apply", whole, "--trust", "--layout", "parametrization")
    assert outcome.code == 2
    assert outcome.error == "--layout is for state dicts; the file holds a whole model"


def test_a_whole_model_is_refused(whole: Path) -> None:
    outcome = run("migrate", whole, "--to", "hook", "--trust")
    assert outcome.code == 1
    assert "migrate its state dict" in outcome.error
