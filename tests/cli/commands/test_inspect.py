from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.cli.conftest import report, run, run_fresh


def test_a_file_is_described(plain: Path) -> None:
    outcome = run("inspect", plain)
    assert (outcome.code, outcome.err) == (0, "")
    assert "(torch zip, " in outcome.out
    assert "1 state dict)" in outcome.out
    assert "plain       3 weights (0.weight, 2.weight, 3.weight)" in outcome.out


def test_a_converted_file_is_described(plain: Path) -> None:
    run("apply", plain, "-i", "0")
    out = run("inspect", "model.weight_norm.pt").out
    assert "normalized  1 weight under weight_norm (1 recorded by wnconvert)" in out


def test_oddities_and_metadata_are_shown(folder: Path) -> None:
    tensors = {"a.weight": torch.zeros(2, 2), "b.weight": torch.full((2, 2), float("nan")), "c.weight_g": torch.ones(2)}
    save_file(tensors, "x.safetensors", {"license": "[mine]"})
    out = run("inspect", "x.safetensors").out
    assert "license = [mine]" in out
    assert "zero        2 channels of a.weight" in out
    assert "non-finite  2 channels of b.weight" in out
    assert "unknown     1 weight (c.weight)" in out


def test_json_holds_the_same(plain: Path) -> None:
    data = report(run("inspect", plain, "--json"))
    assert data["format"] == "torch zip"
    assert [(each["path"], each["plain"]) for each in data["state_dicts"]] == [
        ("model", ["0.weight", "2.weight", "3.weight"])
    ]


def test_a_whole_model_is_described(whole: Path) -> None:
    assert "read as its state dict, without its code" in run("inspect", whole).out
    assert "plain       2 weights" in run("inspect", whole, "--trust").out


def test_a_file_without_state_dicts_is_described(folder: Path) -> None:
    torch.save({"epoch": 3}, "x.pt")
    assert "no state dict" in run("inspect", "x.pt").out


def test_what_goes_wrong_on_a_normalized_model_is_named(whole: Path) -> None:
    model = torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Conv2d(1, 4, 3)), torch.nn.BatchNorm2d(4))
    torch.save(model, "hooked.pt")
    out = run("inspect", "hooked.pt", "--trust").out
    assert "beware" in out
    assert "batch norm fusion" in out
    assert "fold before fusing (0.weight)" in out
    data = report(run("inspect", "hooked.pt", "--trust", "--json"))
    assert "copy" in [finding["topic"] for finding in data["findings"]]
    assert "beware" not in run("inspect", whole, "--trust").out


def test_the_kept_dims_are_counted(folder: Path) -> None:
    norm, nn = torch.nn.utils.weight_norm, torch.nn
    model = nn.Sequential(norm(nn.Conv1d(2, 3, 4)), norm(nn.Conv1d(3, 3, 4), dim=2), norm(nn.Linear(3, 3), dim=None))
    model.append(nn.utils.spectral_norm(nn.Linear(3, 3)))
    save_file(model.state_dict(), "x.safetensors")
    torch.save(model.state_dict(), "x.pt")
    times = "\N{MULTIPLICATION SIGN}"
    shown = f"weight_norm dim 0 {times} 1, dim 2 {times} 1, whole tensor {times} 1; spectral_norm unknown {times} 1"
    for name in ("x.safetensors", "x.pt"):
        assert f"kept dim    {shown}" in run("inspect", name).out
        (summary,) = report(run("inspect", name, "--json"))["state_dicts"]
        assert summary["kept_dim"] == {"weight_norm": {"0": 1, "2": 1, "none": 1}, "spectral_norm": {"unknown": 1}}


def test_a_program_is_told_what_its_norms_cost(folder: Path) -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 1)))
    torch.export.save(torch.export.export(net, (torch.zeros(1, 2, 4),)), "net.pt2")
    (finding,) = (
        each for each in report(run("inspect", "net.pt2", "--json"))["findings"] if each["topic"] == "delegation"
    )
    assert finding["fqns"] == ["0.weight"]
    assert "1 convolution will not be delegated (ExecuTorch)" in finding["problem"]
    assert "1 convolution will not be delegated" in run("inspect", "net.pt2").out


def test_weights_are_drawn(plain: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = run("inspect", plain, "--plot", "w.svg")
    assert (outcome.code, outcome.err) == (0, "")
    assert "plain       3 weights" in outcome.out
    assert b"model.3.weight" in Path("w.svg").read_bytes()
    assert run("inspect", plain, "--plot", "w.svg").error.startswith("output 'w.svg' exists; give --force")
    data = report(run("inspect", plain, "--plot", "w.svg", "--force", "--json"))
    assert [each["name"] for each in data["weights"]] == [f"model.{index}.weight" for index in (0, 2, 3)]
    assert report(run("inspect", plain, "--json"))["weights"] is None
    torch.save({"epoch": 3}, "none.pt")
    outcome = run("inspect", "none.pt", "--plot", "n.svg")
    assert (outcome.code, outcome.error) == (3, "'none.pt' holds no weight that could be drawn; nothing was written")
    assert not Path("n.svg").exists()


#: tells at the end what was imported of what only some need
IMPORTED = """
import atexit, sys
atexit.register(lambda: print([name for name in ("matplotlib", "graphviz") if name in sys.modules]))
"""
#: a place where matplotlib is not installed
WITHOUT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "matplotlib" else find(name, *more)
"""


def test_what_draws_is_only_imported_for_a_figure(plain: Path) -> None:
    for command in (("inspect", plain), ("inspect", "--help")):
        assert run_fresh(*command, cwd=plain.parent, code=IMPORTED).out.splitlines()[-1] == "[]"
    outcome = run_fresh("inspect", plain, "--plot", "w.png", cwd=plain.parent, code=WITHOUT)
    assert (outcome.code, outcome.error) == (2, "'matplotlib' is not installed; pip install 'wnconvert[plot]'")
