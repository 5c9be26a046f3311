"""One state dict of several, by itself, in containers that hold no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoint.conversions.test_reference_models import signal, trained
from tests.checkpoint.layouts import twins
from tests.cli.conftest import folder as folder, report, run
from wnconvert.checkpoint import alone, apply, difference, fold, load
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.errors import OptionError


@pytest.mark.parametrize("format_name", ["safetensors", "npz", "model_folder"])
def test_one_model_of_several_is_written_alone(folder: Path, format_name: str) -> None:
    torch.save({"nets": trained("hook"), "step": 3}, "do.pt")
    output = "out" if format_name == "model_folder" else f"out.{format_name}"
    outcome = run("fold", "do.pt", "--only", "nets.generator", "--format", format_name, "-o", output, "--json")
    found = report(outcome)
    assert found["exact"] is True
    names = [entry["fqn"] for entry in found["converted"]]  # type: ignore[attr-defined]
    assert names[0] == "conv_pre.weight"
    note = "only 'nets.generator' is written, for the container holds no nested dicts; left out: "
    assert [each for each in found["notes"] if each.startswith("only ")] == [  # type: ignore[attr-defined]
        note + "step, nets.mpd, nets.msd, nets.optim_g, nets.optim_d, nets.steps, nets.epoch"
    ]
    plain, normed = twins.HifiGan(twins.Api("plain")), twins.HifiGan(twins.Api("hook"))
    plain.load_state_dict(load(output).content, strict=True)
    normed.load_state_dict(torch.load("do.pt")["nets"]["generator"])
    assert torch.equal(plain.eval()(signal("generator")), normed.eval()(signal("generator")))
    assert run("apply", output, "-o", "again").code == 0  # what it records has the names that it has now
    normed.load_state_dict(load("again").content, strict=True)
    assert torch.equal(plain(signal("generator")), normed(signal("generator")))
    assert run("fold", "again", "-o", "back").code == 0
    assert difference(dict(load(output).content), dict(load("back").content), ordered=False) is None


def test_apply_and_migrate_write_one_alone_too(folder: Path) -> None:
    torch.save(trained("hook", steps=1), "do.pt")
    assert run("fold", "do.pt", "-o", "plain.pt").code == 0
    for command, api in (
        (("apply", "plain.pt"), "hook"),
        (("apply", "plain.pt", "-s", "weight_norm"), "hook"),
        (("apply", "plain.pt", "--like", "do.pt"), "hook"),
        (("apply", "plain.pt", "--layout", "parametrization"), "parametrization"),
        (("migrate", "do.pt", "--to", "parametrization"), "parametrization"),
    ):
        outcome = run(*command, "--only", "generator", "-o", "out.safetensors", "--force")
        assert outcome.code == 0, outcome.err
        assert "left out: mpd, msd, " in outcome.err
        twins.HifiGan(twins.Api(api)).load_state_dict(load("out.safetensors").content, strict=True)


def test_several_are_refused_and_a_place_is_asked_for(folder: Path) -> None:
    torch.save({"nets": trained("hook", steps=1)}, "do.pt")
    outcome = run("fold", "do.pt", "--only", "nets", "-o", "out.safetensors")
    assert outcome.code == 2
    assert outcome.error == (
        "the container holds one state dict, and these were chosen: nets.mpd, nets.msd, nets.generator; "
        "give one (--only)"
    )
    outcome = run("fold", "do.pt", "-o", "out.safetensors")
    assert outcome.code == 1
    assert outcome.error.endswith("'nets' is a nested dict, not a tensor; choose one state dict (--only)")
    assert {path.name for path in folder.iterdir()} == {"do.pt"}


def test_names_lose_the_path_in_report_and_metadata() -> None:
    content = {"x": [3, {"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(2, 2)}], "y": {"b": torch.ones(2)}}
    source = Checkpoint(content, "torch_zip")
    before, (after, found) = alone(source, fold(source), ["x.1"])
    assert before.content is content["x"][1]
    assert [(entry.fqn, entry.keys) for entry in found.converted] == [("a.weight", ("a.weight_g", "a.weight_v"))]
    assert found.notes[-1].endswith("; left out: y, x.0")
    again = apply(after).checkpoint
    assert again.content.keys() == before.content.keys()
    assert '"a.weight"' in after.metadata["wnconvert"]
    bare = Checkpoint(before.content, "torch_zip")
    conversion = fold(bare)
    assert alone(bare, conversion, []) == (bare, conversion)
    with pytest.raises(OptionError, match=r"these were chosen: x\.1, y"):
        alone(source, fold(source), [])
