from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import converted, report, run
from wnconvert.checkpoint import difference, load
from wnconvert.scheme import SCHEMES

WEIGHTS = ("model.0.weight", "model.2.weight", "model.3.weight")


def test_the_result_says_what_was_done(plain: Path) -> None:
    outcome = run("apply", "model.pt")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["weight", "shape", "kept", "dim", "parts"] in lines
    assert [
        "model.0.weight",
        "4\N{MULTIPLICATION SIGN}1\N{MULTIPLICATION SIGN}3\N{MULTIPLICATION SIGN}3",
        *"0gv",
    ] in lines
    assert "converted: 3 weights (weight_norm)" in outcome.out
    assert "verified:  3 weights bit-identical in the written file" in outcome.out
    assert "written:   model.weight_norm.pt (torch zip" in outcome.out
    assert not any(line != line.rstrip() for line in outcome.out.splitlines())
    content = torch.load("model.weight_norm.pt")
    assert content["epoch"] == 3
    assert list(content["model"])[:3] == ["0.weight_g", "0.weight_v", "0.bias"]


@pytest.mark.parametrize("name", list(SCHEMES))
def test_every_scheme_goes_there_and_back(name: str, plain: Path) -> None:
    before = load(plain).content
    applied = run("apply", plain, "-s", name, "--dim", "0", "--json")
    folded = run("fold", f"model.{name}.pt", "--json")
    assert converted(applied) == converted(folded) == list(WEIGHTS)
    after = load(f"model.{name}.folded.pt").content
    preserving = SCHEMES.get(name)().preserving
    assert report(applied)["exact"] is preserving
    assert (difference(before, after) is None) is preserving


def test_safetensors_goes_there_and_back(folder: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 4), "b.weight": torch.randn(3, 4).half(), "b.bias": torch.ones(3)}
    save_file(tensors, "x.safetensors", {"license": "mine"})
    assert converted(run("apply", "x.safetensors", "--json")) == ["a.weight", "b.weight"]
    assert set(load_file("x.weight_norm.safetensors")) == {
        "a.weight_g", "a.weight_v", "b.weight_g", "b.weight_v", "b.bias"
    }  # fmt: skip
    run("fold", "x.weight_norm.safetensors", "-o", "back.safetensors")
    back = load("back.safetensors")
    assert difference(load("x.safetensors").content, back.content) is None
    assert back.metadata == {"license": "mine"}


def test_options_reach_the_scheme(plain: Path) -> None:
    assert run("apply", plain, "-O", "p=1", "-O", "log_g=true").code == 0
    content = load("model.weight_norm.pt")
    assert "0.weight_s" in content.content["model"]
    assert json.loads(content.metadata["wnconvert"])["schemes"][0]["options"] == {
        "p": 1.0,
        "log_g": True,
        "written_out": False,
    }


@pytest.mark.parametrize(("dim", "shape"), [("0", (3, 1)), ("1", (1, 16)), ("none", ()), ("-1", ())])
def test_the_dim_is_as_torch_means_it(dim: str, shape: tuple[int, ...], plain: Path) -> None:
    assert run("apply", plain, "--dim", dim, "-i", "2").code == 0
    assert load("model.weight_norm.pt").content["model"]["2.weight_g"].shape == shape


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-i", "model.0"], ["model.0.weight"]),
        (["-i", "0", "-i", "3.*"], ["model.0.weight", "model.3.weight"]),
        (["-x", "*3*"], ["model.0.weight", "model.2.weight"]),
        (["--min-size", "37"], ["model.2.weight"]),
    ],
)
def test_weights_can_be_chosen(arguments: list[str], expected: list[str], plain: Path) -> None:
    assert converted(run("apply", plain, "--json", *arguments)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.b.pth", "a.b.weight_norm.pth"), ("G_1000", "G_1000.weight_norm"), ("g_0.5", "g_0.5.weight_norm")],
)
def test_the_output_lies_beside_the_input(plain: Path, name: str, expected: str) -> None:
    Path("sub").mkdir()
    source = Path("sub", name)
    source.write_bytes(plain.read_bytes())
    assert report(run("apply", source, "--json"))["output"] == str(Path("sub", expected))
