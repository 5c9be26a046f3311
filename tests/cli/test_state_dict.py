"""``--state-dict``: files with whole modules, on the command line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.pickled import Config, training_file, without_weight_norm
from tests.cli.conftest import report, run, sha

NOTE = "'model' is a pickled module 'glow.WaveGlow', read as its state dict, without its code"


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def model(request: pytest.FixtureRequest, folder: Path) -> nn.Module:
    return training_file(folder / "waveglow.pt", zipped=request.param)


def test_without_it_both_ways_out_are_named(model: nn.Module, folder: Path) -> None:
    for arguments in (["fold"], ["apply"], ["migrate", "--to", "parametrization"], ["verify", "waveglow.pt"]):
        outcome = run(*arguments, "waveglow.pt")
        assert outcome.code == 1
        assert "glow.WaveGlow" in outcome.error
        assert "--state-dict" in outcome.error
        assert "--trust" in outcome.error
    assert [path.name for path in folder.iterdir()] == ["waveglow.pt"]


def test_a_module_is_folded(model: nn.Module, folder: Path) -> None:
    before = sha(folder / "waveglow.pt")
    outcome = run("fold", "waveglow.pt", "--state-dict")
    assert outcome.code == 0, outcome.err
    assert f"note: {NOTE}" in outcome.err
    assert "converted: 12 weights" in outcome.out
    written, expected = torch.load("waveglow.folded.pt", weights_only=True), without_weight_norm(model)
    assert list(written) == ["model", "iteration", "learning_rate"]
    assert written["model"].keys() == expected.keys()
    assert all(torch.equal(written["model"][key], expected[key]) for key in expected)
    assert sha(folder / "waveglow.pt") == before


def test_the_report_says_so_too(model: nn.Module) -> None:
    assert NOTE in report(run("fold", "waveglow.pt", "--state-dict", "--dry-run", "--json"))["notes"]


def test_a_module_is_migrated_and_compared(model: nn.Module) -> None:
    assert run("migrate", "waveglow.pt", "--state-dict", "--to", "parametrization").code == 0
    assert "WN.0.start.parametrizations.weight.original0" in torch.load("waveglow.parametrization.pt")["model"]
    outcome = run("verify", "waveglow.pt", "waveglow.parametrization.pt", "--state-dict")
    assert outcome.code == 0
    assert f"note: 'waveglow.pt': {NOTE}" in outcome.err
    assert "bit-identical" in outcome.out


def test_a_module_is_converted_like_another(model: nn.Module) -> None:
    assert run("fold", "waveglow.pt", "--state-dict", "-o", "plain.pt").code == 0
    assert "--state-dict" in run("apply", "plain.pt", "--like", "waveglow.pt").error
    outcome = run("apply", "plain.pt", "--like", "waveglow.pt", "--state-dict", "-o", "back.pt")
    assert outcome.code == 0, outcome.err
    assert torch.load("back.pt")["model"].keys() == model.state_dict().keys()
    assert run("verify", "waveglow.pt", "back.pt", "--state-dict").code == 0


def test_a_plain_module_is_split(whole: Path) -> None:
    outcome = run("apply", whole, "--state-dict")
    assert outcome.code == 0, outcome.err
    assert "the file is a pickled module 'torch.nn.modules.container.Sequential'" in outcome.err
    back = run("fold", "whole.weight_norm.pt")
    assert back.code == 0
    written = torch.load("whole.weight_norm.folded.pt", weights_only=True)
    expected = torch.load(whole, weights_only=False).state_dict()
    assert list(written) == list(expected)
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_it_may_change_its_container(whole: Path) -> None:
    assert run("apply", whole, "--state-dict", "--format", "safetensors").code == 0
    assert run("verify", whole, "whole.weight_norm.safetensors", "--state-dict").code == 0


def test_inspect_needs_no_word(model: nn.Module) -> None:
    outcome = run("inspect", "waveglow.pt")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"note        {NOTE}" in outcome.out
    assert "normalized  12 weights under weight_norm" in outcome.out
    data = report(run("inspect", "waveglow.pt", "--json"))
    assert data["notes"] == [NOTE]
    assert [(each["path"], each["schemes"]) for each in data["state_dicts"]] == [("model", {"weight_norm": 12})]


def test_other_objects_are_shown_but_not_written(folder: Path) -> None:
    torch.save({"model": nn.utils.weight_norm(nn.Linear(2, 2)), "config": Config()}, "a.pt")
    assert "note        'config' is an object of 'tests.checkpoint.pickled.Config'" in run("inspect", "a.pt").out
    for arguments in (["fold"], ["migrate", "--to", "parametrization"], ["fold", "--dry-run"]):
        outcome = run(*arguments, "a.pt", "--state-dict")
        assert outcome.code == 1
        assert outcome.error.startswith("'config' is an object of 'tests.checkpoint.pickled.Config'")
    assert [path.name for path in folder.iterdir()] == ["a.pt"]


def test_both_at_once_make_no_sense(whole: Path) -> None:
    outcome = run("apply", whole, "--state-dict", "--trust")
    assert outcome.code == 2
    assert "one of the two" in outcome.error


def test_packages_are_written_as_another_container(folder: Path) -> None:
    module = nn.utils.weight_norm(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)  # torch's own exporter uses it
        with torch.package.PackageExporter("a.pth") as exporter:
            exporter.extern("**")
            exporter.save_pickle("a", "a.pth", module)
            exporter.save_text("a", "metadata.json", "{}")
    assert "(torch.package, " in run("inspect", "a.pth").out
    outcome = run("fold", "a.pth")
    assert outcome.code == 2
    assert outcome.error.startswith("torch.package is read, but not written")
    outcome = run("fold", "a.pth", "--format", "torch_zip")
    assert outcome.code == 0, outcome.err
    assert "note: left out of the archive, for it is code or no pickle: 'a/metadata.json'" in outcome.err
    written = torch.load("a.folded.pth", weights_only=True)
    assert torch.equal(written["weight"], nn.utils.remove_weight_norm(module).weight)
