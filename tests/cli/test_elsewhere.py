"""Weights that another device computes, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cli.conftest import document, report, run, run_fresh
from tests.elsewhere import Rounding, StandIn
from wnconvert import api, device
from wnconvert.checkpoint import load
from wnconvert_cli import elsewhere

COMMANDS: dict[str, list[str]] = {
    "fold": ["fold", "parts.pt"],
    "apply": ["apply", "parts.pt"],
    "migrate": ["migrate", "parts.pt", "--to", "parametrization"],
    "verify": ["verify", "parts.pt", "parts.pt"],
}


@pytest.fixture
def parts(folder: Path) -> nn.Module:
    """A layer with torch's weight norm; its state is in parts.pt, and it is in whole.pt."""
    module = nn.utils.weight_norm(nn.Linear(64, 64))
    torch.save(module.state_dict(), folder / "parts.pt")
    torch.save(nn.Sequential(nn.utils.weight_norm(nn.Linear(64, 64))), folder / "whole.pt")
    return module


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> device.Device:
    """A stand-in for cuda:0."""
    made = StandIn()
    monkeypatch.setattr(device, "_probed", lambda where: made)
    return made


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> device.Device:
    """A stand-in for cuda:0 that computes whole models."""
    made = Rounding()
    monkeypatch.setattr(device, "_probed", lambda where: made)
    return made


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("cuba", 2, "device 'cuba' is none that torch knows; give cpu, cuda, cuda:1, mps or xpu"),
        ("meta", 2, "device 'meta' holds no values, so nothing can be computed there"),
        ("cuda:x", 2, "device 'cuda:x' is none that torch knows"),
        ("hpu", 1, "'hpu' is not available here (ModuleNotFoundError: "),
        ("mkldnn", 1, "'mkldnn' is not available here ("),
        ("cuda:99", 1, "'cuda:99' is not available here ("),
    ],
)
def test_what_is_no_device_is_refused_before_anything_is_read(
    command: str, name: str, code: int, said: str, folder: Path
) -> None:
    outcome = run(*COMMANDS[command], "--device", name)  # there is no such file, which would be said first
    assert outcome.code == code
    assert outcome.error.startswith(said)
    answer = document(run(*COMMANDS[command], "--device", name, "--json"))
    assert answer["error"]["kind"] == ("OptionError" if code == 2 else "DeviceError")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_may_be_named(name: str, parts: nn.Module) -> None:
    for command, arguments in COMMANDS.items():
        if command == "apply":
            arguments = ["apply", "parts.folded.pt"]
        plain = document(run(*arguments, "--force" if command != "verify" else "--quiet", "--json"))
        named = document(run(*arguments, "--force" if command != "verify" else "--quiet", "--json", "--device", name))
        assert named.pop("options") == plain.pop("options") | {"device": name}
        assert named == plain
        assert (named["device"] if command == "verify" else named["files"][0]["device"]) == "cpu"


def test_the_cpu_is_named_without_torch(folder: Path) -> None:
    code = "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules, flush=True))"
    outcome = run_fresh("fold", "missing.pt", "--device", "cpu", cwd=folder, code=code)
    assert (outcome.code, outcome.out.strip()) == (1, "False")


def test_fold_writes_the_bits_of_the_device(parts: nn.Module, cuda: device.Device) -> None:
    outcome = run("fold", "parts.pt", "--device", "cuda", "--json")
    entry = report(outcome)
    assert (entry["device"], entry["verified"]) == (cuda.name, 1)
    assert entry["notes"][0] == cuda.notes[0]
    assert f"note: {cuda.notes[0]}" in outcome.err
    folded = torch.load("parts.folded.pt")["weight"]
    g, v = parts.weight_g.detach(), parts.weight_v.detach()
    assert torch.equal(folded, cuda.run(lambda v, g: torch._weight_norm(v, g, 0), v, g))
    assert not torch.equal(folded, parts.weight)


def test_apply_and_fold_there_give_the_file_back(parts: nn.Module, cuda: device.Device) -> None:
    torch.save(nn.Linear(64, 64).state_dict(), "plain.pt")
    assert report(run("apply", "plain.pt", "--device", "cuda", "--json"))["exact"]
    assert report(run("fold", "plain.weight_norm.pt", "--device", "cuda", "--json"))
    before, after = torch.load("plain.pt"), torch.load("plain.weight_norm.folded.pt")
    assert all(torch.equal(before[key], after[key]) for key in before)
    here = run("fold", "plain.weight_norm.pt", "-o", "here.pt")
    assert "note: weights were split on stand-in:0 (made up) and composed on cpu" in here.err
    assert not torch.equal(torch.load("here.pt")["weight"], before["weight"])


def test_verify_compares_there(parts: nn.Module, cuda: device.Device) -> None:
    assert run("fold", "parts.pt", "--device", "cuda").code == 0
    there = run("verify", "parts.pt", "parts.folded.pt", "--device", "cuda", "--json")
    assert (there.code, document(there)["device"]) == (0, cuda.name)
    assert cuda.notes[0] in there.err
    assert run("verify", "parts.pt", "parts.folded.pt").code == 4
    assert run("verify", "parts.pt", "parts.folded.pt", "--tolerance", "1e-5").code == 0


def test_migrate_compares_there(parts: nn.Module, cuda: device.Device) -> None:
    entry = report(run("migrate", "parts.pt", "--to", "parametrization", "--device", "cuda", "--json"))
    assert entry["device"] == cuda.name


def test_what_differs_when_it_is_computed_again_is_not_kept(
    parts: nn.Module, cuda: device.Device, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """A device whose kernels do not repeat their bits: nothing can be verified there, and nothing is written."""
    count = iter(range(100))
    monkeypatch.setattr(StandIn, "back", lambda self, tensor: tensor.held + next(count))
    torch.save({f"{n}{key}": part for n in "ab" for key, part in parts.state_dict().items()}, "many.pt")
    torch.save(nn.utils.weight_norm(nn.Linear(256, 256)).state_dict(), "large.pt")  # small ones are kept
    assert run("fold", "large.pt", "--device", "cuda").code == 4
    assert not (folder / "large.folded.pt").exists()


def test_whole_models_take_the_values_of_the_device(parts: nn.Module, rounding: device.Device) -> None:
    model = load("whole.pt", trust=True).content
    entry = report(run("fold", "whole.pt", "--trust", "--device", "cuda", "--json"))
    assert entry["device"] == rounding.name
    assert entry["notes"][0] == rounding.notes[0]
    folded = load("whole.folded.pt", trust=True).content
    assert type(folded[0]) is nn.Linear
    there = rounding.run(lambda: torch._weight_norm(model[0].weight_v.detach(), model[0].weight_g.detach(), 0))
    assert torch.equal(folded[0].weight, there)
    assert not torch.equal(folded[0].weight, api.fold(model).model[0].weight)


def test_whole_models_are_split_and_verified_there(parts: nn.Module, rounding: device.Device) -> None:
    torch.save(nn.Sequential(nn.Linear(64, 64)), "plain.pt")
    assert report(run("apply", "plain.pt", "--trust", "--device", "cuda", "--json"))["exact"]
    model, source = load("plain.weight_norm.pt", trust=True).content, load("plain.pt", trust=True).content
    assert torch.equal(rounding.run(api.fold, model).model.get_parameter("0.weight"), source[0].weight)
    assert not torch.equal(api.fold(model).model.get_parameter("0.weight"), source[0].weight)


def test_a_copy_has_all_that_the_model_holds(parts: nn.Module, rounding: device.Device) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[0].aside = [torch.ones(3)]
    copy: Any = elsewhere.copied(model, rounding)
    assert copy[0].weight is copy[1].weight
    assert copy[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert copy[0].aside[0].tolist() == [1.0] * 3
    assert elsewhere.copied(model, device.CPU) is model


def test_other_weights_there_than_here_are_refused(
    parts: nn.Module, rounding: device.Device, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(
        elsewhere, "copied", lambda model, where: nn.Sequential(*model, nn.utils.weight_norm(nn.Linear(2, 2)))
    )
    outcome = run("fold", "whole.pt", "--trust", "--device", "cuda")
    assert (outcome.code, outcome.error) == (
        1,
        "other weights can be converted on 'stand-in:1' than on the CPU; leave the device out",
    )
    assert not (folder / "whole.folded.pt").exists()


def test_what_says_itself_where_it_computes_is_refused(parts: nn.Module, cuda: device.Device, folder: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), folder / "program.pt2")
    outcome = run("fold", "program.pt2", "--device", "cuda")
    assert outcome.code == 2
    assert "holds a program, which computes where its own tensors are; leave out --device" in outcome.error
    outcome = run("fold", "whole.pt", "--trust", "--fuse", "all", "--device", "cuda")
    assert outcome.code == 2
    assert outcome.error == "--fuse computes in float64, rounded once, on the CPU; leave out --device"
