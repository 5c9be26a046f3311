from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.cli.conftest import report, run
from wnconvert.checkpoint import bits_equal, load


def test_a_file_of_torchs_own_hooks_is_folded(folder: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 4)), nn.utils.weight_norm(nn.Linear(2, 2)))
    torch.save({"generator": net.state_dict()}, "g_0001")
    outcome = run("fold", "g_0001")
    assert outcome.code == 0
    assert "verified:  2 weights bit-identical" in outcome.out
    assert outcome.err == ""
    assert ["weight", "shape", "kept", "dim", "parts"] in [line.split() for line in outcome.out.splitlines()]
    content = load("g_0001.folded").content["generator"]
    assert list(content) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert bits_equal(content["0.weight"], net[0].weight.detach())


def test_options_need_a_scheme(plain: Path) -> None:
    outcome = run("fold", plain, "-O", "p=1")
    assert outcome.code == 2
    assert "--option needs --scheme" in outcome.error


def test_a_given_scheme_wins_over_the_record(plain: Path) -> None:
    run("apply", plain, "-O", "p=1")
    run("fold", "model.weight_norm.pt", "-o", "by_record.pt")
    run("fold", "model.weight_norm.pt", "-o", "by_hand.pt", "-s", "weight_norm", "-O", "p=2")
    record, hand = (load(path).content["model"]["2.weight"] for path in ("by_record.pt", "by_hand.pt"))
    assert bits_equal(record, load(plain).content["model"]["2.weight"])
    assert not bits_equal(hand, record)


def test_only_the_given_scheme_is_folded(plain: Path) -> None:
    run("apply", plain)
    outcome = run("fold", "model.weight_norm.pt", "-s", "unit_norm")
    assert outcome.code == 3
    assert "are not those of unit_norm" in outcome.error


def test_plain_weights_are_nothing_to_fold(plain: Path) -> None:
    outcome = run("fold", plain)
    assert outcome.code == 3
    assert outcome.error.startswith("nothing to convert")


def test_a_part_can_be_folded(plain: Path) -> None:
    run("apply", plain)
    assert run("fold", "model.weight_norm.pt", "-i", "0").code == 0
    assert list(load("model.weight_norm.folded.pt").content["model"])[:3] == ["0.weight", "0.bias", "2.weight_g"]


def batch_normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 1)), nn.BatchNorm1d(3)).eval()


def test_a_program_is_fused_and_measured(folder: Path) -> None:
    torch.export.save(torch.export.export(batch_normed(), (torch.randn(2, 2, 4),)), "net.pt2")
    outcome = run("fold", "net.pt2", "--fuse", "batch_norm")
    assert outcome.code == 0, outcome.err
    assert "fused:     1 normalization (1 batch_norm)" in outcome.out
    assert "against float64, unfused" in outcome.out
    assert "fused normalizations are not exact" in outcome.err
    program = torch.export.load("net.fused.pt2")
    assert not [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
    entry = report(run("fold", "net.pt2", "--fuse", "all", "--dry-run", "--json"))
    assert entry["measured"]["fused"] < 1e-5
    assert not entry["exact"]


def test_a_plain_whole_model_is_fused(folder: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).eval(), "net.pt")
    outcome = run("fold", "net.pt", "--trust", "--fuse", "batch_norm")
    assert outcome.code == 0, outcome.err
    assert "error:     not measured" in outcome.out
    assert isinstance(torch.load("net.fused.pt", weights_only=False)[1], nn.Identity)


def test_a_state_dict_is_not_fused(plain: Path) -> None:
    outcome = run("fold", plain, "--fuse", "batch_norm")
    assert outcome.code == 2
    assert "--fuse needs the graph of a model" in outcome.error
    assert "did you mean 'batch_norm'" in run("fold", plain, "--fuse", "batchnorm").error
