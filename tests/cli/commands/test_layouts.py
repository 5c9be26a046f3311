from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from tests.cli.conftest import document, report, run
from wnconvert.checkpoint import bits_equal, load
from wnconvert.checkpoint.layout import LAYOUTS


def test_weights_are_split_like_a_reference(folder: Path) -> None:
    torch.manual_seed(0)
    own = parametrizations.weight_norm
    reference = nn.Sequential(own(nn.Conv1d(2, 3, 4), dim=2), nn.Linear(3, 3), own(nn.Linear(3, 3), dim=None))
    plain = nn.Sequential(nn.Conv1d(2, 3, 4), nn.Linear(3, 3), nn.Linear(3, 3))
    torch.save({"model": reference.state_dict()}, "reference.pt")
    torch.save({"generator": plain.state_dict(), "step": 3}, "plain.pt")
    outcome = run("apply", "plain.pt", "--like", "reference.pt")
    assert (outcome.code, outcome.err) == (0, "")
    assert "verified:  2 weights bit-identical" in outcome.out
    reference.load_state_dict(load("plain.like.pt").content["generator"], strict=True)
    assert torch.equal(reference[0].weight, plain[0].weight)
    assert run("verify", "plain.pt", "plain.like.pt").code == 0
    assert run("fold", "plain.like.pt", "-o", "back.pt").code == 0
    assert bits_equal(load("back.pt").content["generator"]["0.weight"], plain[0].weight.detach())


def test_like_says_all_that_there_is_to_say(plain: Path) -> None:
    for more in (["-O", "p=1"], ["-i", "0"], ["--dim", "output"]):
        assert run("apply", plain, "--like", plain, *more).code == 2
    outcome = run("apply", plain, "--like", plain)
    assert outcome.code == 3
    assert outcome.error == "nothing to convert: the reference normalizes no weight"


def test_a_layout_without_traces_is_named(folder: Path) -> None:
    weight = torch.randn(4, 3, 3, 3)
    torch.save({"stem.conv1.weight": weight, "head.fc.weight": torch.randn(2, 4, 1, 1)}, "bit.pt")
    assert run("fold", "bit.pt").code == 3
    assert run("fold", "bit.pt", "--preset", "timm-bit").code == 0
    folded = load("bit.folded.pt").content["stem.conv1.weight"]
    torch.testing.assert_close(folded.flatten(1).mean(1), torch.zeros(4), atol=1e-6, rtol=0)
    assert run("fold", "bit.pt", "--preset", "timm-bits").code == 2


def test_precision_may_be_given(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(nn.utils.weight_norm(nn.Conv1d(64, 64, 7)).state_dict(), "x.pt")
    run("fold", "x.pt", "-o", "runtime.pt")
    run("fold", "x.pt", "-o", "reference.pt", "--precision", "reference")
    assert run("verify", "runtime.pt", "reference.pt").code == 4
    assert run("verify", "runtime.pt", "reference.pt", "-t", "1e-6").code == 0
    assert run("verify", "x.pt", "reference.pt", "--precision", "reference").code == 0


def test_an_adapter_is_folded_into_its_base(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"use_dora": True, "lora_alpha": 4}))
    prefix = "base_model.model.q.lora_"
    parts = {
        f"{prefix}A.weight": torch.randn(2, 3),
        f"{prefix}B.weight": torch.randn(4, 2),
        f"{prefix}magnitude_vector": torch.full((4,), 2.0),
    }
    save_file(parts, folder / "adapter" / "adapter_model.safetensors")
    save_file({"q.weight": torch.randn(4, 3), "q.bias": torch.zeros(4)}, folder / "base.safetensors")
    outcome = run("fold", "base.safetensors", "--adapter", "adapter")
    assert outcome.code == 0
    assert "(dora)" in outcome.out
    assert "lora_A.weight" in outcome.out
    content = load("base.folded.safetensors").content
    assert set(content) == {"q.weight", "q.bias"}
    torch.testing.assert_close(content["q.weight"].norm(dim=1), torch.full((4,), 2.0))
    assert run("fold", "base.safetensors", "--adapter", "adapter", "--dim", "0").code == 2
    assert run("fold", "base.safetensors", "--adapter", "adapter", "--preset", "dora:alpha=4").code == 2
    assert run("fold", "base.safetensors", "--adapter", "nowhere").code == 1
    outcome = run("fold", "adapter")
    assert outcome.code != 0
    assert "holds an adapter of PEFT" in outcome.err
    torch.save({"model": load("base.safetensors").content, "step": 3}, "nested.pt")
    assert run("fold", "nested.pt", "--adapter", "adapter", "--only", "model").code == 0
    assert torch.equal(load("nested.folded.pt").content["model"]["q.weight"], content["q.weight"])
    live = {
        **{key.replace("vector", "vector.default.weight"): part for key, part in parts.items()},
        "base_model.model.q.base_layer.weight": load("base.safetensors").content["q.weight"],
        "base_model.model.q.base_layer.bias": torch.zeros(4),
    }
    torch.save(live, "live.pt")
    assert run("fold", "live.pt", "--preset", "dora:alpha=4").code == 0
    assert run("fold", "live.pt", "--adapter", "adapter/adapter_config.json", "-o", "again.pt").code == 0
    for name in ("live.folded.pt", "again.pt"):
        assert load(name).content.keys() == {"q.weight", "q.bias"}
        assert torch.equal(load(name).content["q.weight"], content["q.weight"])
    assert run("migrate", "base.safetensors", "--adapter", "adapter", "--to", "parametrization").code == 0
    model = nn.ModuleDict({"q": nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))})
    model.load_state_dict(load("base.parametrization.safetensors").content)
    torch.testing.assert_close(model["q"].weight, content["q.weight"])
    assert run("migrate", "base.safetensors", "--adapter", "adapter", "--to", "hook", "--dim", "0").code == 2
    torch.save(nn.Linear(3, 4), "whole.pt")
    outcome = run("fold", "whole.pt", "--adapter", "adapter", "--trust")
    assert outcome.code == 2
    assert "the file holds a whole model" in outcome.err
    outcome = run("apply", "base.folded.safetensors", "--like", "adapter")
    assert outcome.code == 1
    assert "cannot be taken apart into a base and factors again" in outcome.err


def test_weights_are_spelled_as_other_software_does(folder: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3)
    torch.save(
        {"model": {"a.weight": weight / torch.linalg.matrix_norm(weight.flatten(1), 2), "b.weight": weight}}, "x.pt"
    )
    outcome = run("apply", "x.pt", "--layout", "biggan")
    assert (outcome.code, outcome.err) == (0, "")
    assert "verified:  1 weight bit-identical in the written file" in outcome.out
    assert "skipped:   has a largest singular value of " in outcome.out
    assert list(load("x.biggan.pt").content["model"]) == ["a.weight", "a.u0", "a.sv0", "b.weight"]
    assert run("fold", "x.biggan.pt", "-o", "back.pt").code == 0
    assert run("verify", "x.pt", "back.pt").code == 0
    outcome = run("apply", "x.pt", "--layout", "parametrization", "-i", "b", "--dim", "1", "--json")
    assert report(outcome)["exact"] is True
    assert load("x.parametrization.pt").content["model"]["b.parametrizations.weight.original0"].shape == (1, 3, 1, 1)


def test_what_comes_back_up_to_rounding_is_said(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save({"a.weight": torch.randn(8, 3, 3, 3)}, "x.pt")
    outcome = run("apply", "x.pt", "--layout", "mmcv-conv-aws")
    assert outcome.code == 0
    (warning,) = outcome.err.splitlines()
    assert warning.startswith(
        "warning: layout mmcv-conv-aws gives weights back up to rounding: elements of the weights"
    )
    assert "not identical to the input's" in outcome.out
    assert run("verify", "x.pt", "x.mmcv-conv-aws.pt").code == 4
    assert run("verify", "x.pt", "x.mmcv-conv-aws.pt", "-t", "3e-7").code == 0


def test_the_layouts_are_listed() -> None:
    found = {each["name"]: each for each in document(run("layouts", "--json"))["layouts"]}
    assert list(found) == list(LAYOUTS)
    assert found["nfnet"] == {
        "name": "nfnet",
        "title": "timm's ScaledStdConv2d",
        "preset": True,
        "written": ["scaled_weight_standardization"],
        "options": {"eps": 1e-5, "only": "", "gamma": 1.0},
    }
    assert found["dora"]["options"]["alpha"] == "nan"
    shown = run("layouts").out
    assert all(name in shown for name in LAYOUTS)
    assert "gamma=1" in shown
