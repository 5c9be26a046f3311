"""Containers, as the command line meets them: conversions from one to another, folders, parts of a file."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.checkpoint.formats.samples import write_foreign
from tests.cli.conftest import report, run
from wnconvert.checkpoint import FORMATS, difference, load


@pytest.fixture
def flat(folder: Path) -> dict[str, torch.Tensor]:
    """A state dict without nesting, as model.pt in the working directory."""
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv1d(2, 3, 4), nn.BatchNorm1d(3), nn.Linear(3, 2)).state_dict()
    torch.save(state, "model.pt")
    return dict(state)


WRITTEN = [name for name in FORMATS if FORMATS.get(name).not_written is None]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_container_is_written_and_folded_back(name: str, flat: dict[str, torch.Tensor]) -> None:
    outcome = run("apply", "model.pt", "--format", name, "--json")
    assert outcome.code == 0, outcome.err
    written = Path(report(outcome)["output"])
    assert load(written).format == name
    outcome = run("fold", written, "--format", "torch_zip", "-o", "back.pt")
    assert outcome.code == 0, outcome.err
    assert difference(flat, dict(load("back.pt").content), ordered=False) is None


def test_outputs_are_named_like_their_container(flat: dict[str, torch.Tensor]) -> None:
    for name, expected in [
        ("safetensors", "model.weight_norm.safetensors"),
        ("npz", "model.weight_norm.npz"),
        ("torch_legacy", "model.weight_norm.pt"),
        ("safetensors_sharded", "model.weight_norm"),
    ]:
        assert report(run("apply", "model.pt", "--format", name, "--json"))["output"] == expected
    assert load_file("model.weight_norm.safetensors").keys() == dict(load("model.weight_norm.npz").content).keys()
    assert load("model.weight_norm.safetensors").metadata["format"] == "pt"
    assert np.load("model.weight_norm.npz")["0.weight_v"].shape == (3, 2, 4)


def test_what_a_container_cannot_hold_is_refused(plain: Path, folder: Path) -> None:
    outcome = run("apply", plain, "--format", "safetensors")
    assert outcome.code == 1
    assert "safetensors cannot hold this content: 'model' is a nested dict, not a tensor" in outcome.error
    assert [path.name for path in folder.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS.get(name).not_written])
def test_what_is_not_written_is_refused_before_any_work(name: str, flat: dict[str, torch.Tensor]) -> None:
    outcome = run("apply", "model.pt", "--format", name)
    assert outcome.code == 2
    assert "give --format torch_zip" in outcome.error


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS.get(name).not_written])
def test_what_is_read_only_is_converted_into_another_container(name: str, folder: Path) -> None:
    source = folder / "model.pt2"
    content = write_foreign(name, source)
    outcome = run("apply", source, "--format", "torch_zip")
    assert outcome.code == 0, outcome.err
    assert run("fold", "model.weight_norm.pt", "-o", "back.pt").code == 0
    assert load(source).format == name
    assert difference(content, load("back.pt").content, ordered=False) is None


def test_an_unknown_container_is_suggested(flat: dict[str, torch.Tensor]) -> None:
    outcome = run("apply", "model.pt", "--format", "safetensor")
    assert outcome.code == 2
    assert "did you mean 'safetensors'" in outcome.error


# parts of a file


def gan() -> dict[str, object]:
    generator, critic = nn.Linear(4, 5), nn.Linear(7, 3)
    optimizers = {}
    for name, net in (("optim_g", generator), ("optim_d", critic)):
        optimizer = torch.optim.Adam(net.parameters())
        net(torch.ones(1, net.in_features)).sum().backward()
        optimizer.step()
        optimizers[name] = optimizer.state_dict()
    return {"nets": {"g": generator.state_dict(), "d": critic.state_dict()}, **optimizers}


def test_only_limits_a_conversion_to_one_state_dict(folder: Path) -> None:
    content = gan()
    torch.save(content, "gan.pt")
    assert run("apply", "gan.pt", "--only", "nets.g").code == 0
    nets = load("gan.weight_norm.pt").content["nets"]
    assert list(nets["g"]) == ["weight_g", "weight_v", "bias"]
    assert list(nets["d"]) == ["weight", "bias"]
    outcome = run("apply", "gan.pt", "--only", "nets.x", "--force")
    assert outcome.code == 2
    assert "there is no state dict at 'nets.x' (there are: nets.g, nets.d)" in outcome.error


def test_optimizer_state_is_left_out_where_it_is_stale(folder: Path) -> None:
    torch.save(gan(), "gan.pt")
    outcome = run("apply", "gan.pt", "--only", "nets.g")
    assert "optimizer: 'optim_g' is left out, for its state belongs to the parameters as they were" in outcome.out
    assert "optim_d" not in outcome.out
    assert list(load("gan.weight_norm.pt").content) == ["nets", "optim_d"]
    outcome = run("apply", "gan.pt", "--force")
    assert list(load("gan.weight_norm.pt").content) == ["nets"]
    outcome = run("apply", "gan.pt", "--force", "--optimizer", "keep")
    assert "optimizer: 'optim_g' is kept, though its state belongs to the parameters as they were" in outcome.out
    assert difference(load("gan.pt").content["optim_g"], load("gan.weight_norm.pt").content["optim_g"]) is None


def test_optimizers_in_a_list_keep_their_places(folder: Path) -> None:
    content = gan()
    lightning = {"state_dict": content["nets"]["g"], "optimizer_states": [content["optim_g"], content["optim_d"]]}  # type: ignore[index]
    torch.save({**lightning, "other": content["nets"]["d"]}, "x.ckpt")  # type: ignore[index]
    assert run("apply", "x.ckpt", "--only", "state_dict").code == 0
    first, second = load("x.weight_norm.ckpt").content["optimizer_states"]
    assert first["state"] == {}
    assert len(first["param_groups"][0]["params"]) == 3  # weight_g, weight_v and bias
    assert difference(second, load("x.ckpt").content["optimizer_states"][1]) is None


def test_prefixes_and_foreign_values_survive(folder: Path) -> None:
    from argparse import Namespace

    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for prefix in ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod."):
        state[f"{prefix}conv.weight"] = torch.randn(3, 2)
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    content = {
        "args": Namespace(lr=0.1, path=Path("a"), nested=Namespace(x=[1])),
        "scalars": [np.float64(0.5), np.int32(3), np.bool_(True), np.float32("nan")],
        "array": np.arange(6).reshape(2, 3),
        "lists": [state, {"ema.weight": torch.randn(2, 2)}],
    }
    torch.save(content, "x.pt")
    assert run("apply", "x.pt").code == 0
    assert run("fold", "x.weight_norm.pt", "-o", "back.pt").code == 0
    assert list(load("x.weight_norm.pt").content["lists"][0])[:2] == ["module.conv.weight_g", "module.conv.weight_v"]
    assert list(load("x.weight_norm.pt").content["lists"][1]) == ["ema.weight_g", "ema.weight_v"]
    assert difference(load("x.pt").content, load("back.pt").content) is None
    assert difference(content, load("back.pt").content) is None
