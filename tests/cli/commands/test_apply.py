from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.cli.conftest import Outcome, run, run_process
from wnconvert.checkpoint import bits_equal, difference, load
from wnconvert.scheme import SCHEMES

WEIGHTS = ("model.0.weight", "model.2.weight", "model.3.weight")


def report(outcome: Outcome) -> dict[str, object]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def converted(outcome: Outcome) -> list[str]:
    return [entry["fqn"] for entry in report(outcome)["converted"]]  # type: ignore[attr-defined]


def test_the_result_says_what_was_done(plain: Path) -> None:
    outcome = run("apply", "model.pt")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["weight", "shape", "reduced", "dims", "parts"] in lines
    assert [
        "model.0.weight",
        "4\N{MULTIPLICATION SIGN}1\N{MULTIPLICATION SIGN}3\N{MULTIPLICATION SIGN}3",
        *"123gv",
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


def test_shared_parts_are_shown(plain: Path) -> None:
    rows = [line.split() for line in run("apply", plain, "-s", "network_norm").out.splitlines()]
    assert ["model.2.weight", "3\N{MULTIPLICATION SIGN}16", "0", "1", "network_v", "+", "network_g"] in rows


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


def test_a_scheme_that_changes_the_function_says_so_first(plain: Path) -> None:
    outcome = run("apply", plain, "-s", "unit_norm")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: unit_norm does not preserve the function")
    assert "not identical to the input's" in outcome.out
    assert "bit-identical" not in outcome.out
    assert run("apply", plain, "-s", "unit_norm", "--force", "-q").err == outcome.err


def test_options_reach_the_scheme(plain: Path) -> None:
    assert run("apply", plain, "-O", "p=1", "-O", "log_g=true").code == 0
    content = load("model.weight_norm.pt")
    assert "0.weight_s" in content.content["model"]
    assert json.loads(content.metadata["wnconvert"])["schemes"][0]["options"] == {
        "p": 1.0,
        "log_g": True,
        "twice_differentiable": False,
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


def test_skipped_weights_are_listed_by_reason(plain: Path) -> None:
    outcome = run("apply", plain, "-i", "0")
    assert "skipped:   not included by '0' (model.2.weight and 1 more)" in outcome.out


def test_a_dry_run_writes_nothing(plain: Path, folder: Path) -> None:
    outcome = run("apply", plain, "--dry-run")
    assert outcome.code == 0
    assert "nothing written" in outcome.out
    assert "verified" not in outcome.out
    assert [path.name for path in folder.iterdir()] == ["model.pt"]
    assert report(run("apply", plain, "--dry-run", "--json"))["output"] is None


def test_quiet_says_nothing(plain: Path) -> None:
    outcome = run("apply", plain, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert Path("model.weight_norm.pt").exists()


def test_many_alike_weights_share_a_row(folder: Path) -> None:
    torch.save({f"blocks.{i}.{j}.weight": torch.ones(2, 3) for i in range(30) for j in range(2)}, "many.pt")
    outcome = run("apply", "many.pt")
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("  ")]
    assert [row[:2] for row in rows] == [["weight", "count"], ["blocks.*.*.weight", "60"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.b.pth", "a.b.weight_norm.pth"), ("G_1000", "G_1000.weight_norm"), ("g_0.5", "g_0.5.weight_norm")],
)
def test_the_output_lies_beside_the_input(plain: Path, name: str, expected: str) -> None:
    Path("sub").mkdir()
    source = Path("sub", name)
    source.write_bytes(plain.read_bytes())
    assert report(run("apply", source, "--json"))["output"] == str(Path("sub", expected))


def test_stale_optimizer_state_is_noted(folder: Path) -> None:
    net = nn.Linear(2, 3)
    torch.save({"model": net.state_dict(), "optim": torch.optim.SGD(net.parameters()).state_dict()}, "train.pt")
    outcome = run("apply", "train.pt")
    assert outcome.err.startswith("note: the optimizer state in 'optim'")


# --model


def test_a_model_decides_what_is_a_weight(module: str) -> None:
    by_name = converted(run("apply", "net.pt", "--dry-run", "--json"))
    outcome = run("apply", "net.pt", "--dim", "output", "-m", f"{module}:build", "--json")
    assert "unused.weight" in by_name
    # the forward does not call `unused`, but its class says what it is, and another method may call it
    assert set(converted(outcome)) == {"conv.weight", "up.weight", "embed.weight", "head.weight", "unused.weight"} - {
        entry["fqn"] for entry in report(outcome)["skipped"]
    }
    assert load("net.weight_norm.pt").content["up.weight_g"].shape == (1, 4, 1, 1)
    assert run("fold", "net.weight_norm.pt", "-m", f"{module}:build").code == 0
    assert difference(load("net.pt").content, load("net.weight_norm.folded.pt").content) is None


def test_ops_are_chosen_by_name(module: str) -> None:
    assert converted(run("apply", "net.pt", "-m", f"{module}:build", "--op", "conv2d", "--json")) == ["conv.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "conv2d"], "--op needs --model"),
        (["-m", "{module}:build", "--op", "conv2"], "no weighted op 'conv2'; did you mean 'conv2d'? (known: conv"),
        (["-m", "{module}"], "must be of the form package.module:factory"),
        (["-m", "{module}:missing"], "AttributeError"),
        (["-m", "{module}_x:build"], "ModuleNotFoundError"),
        (["-m", "{module}:fail"], "failed: RuntimeError: first line"),
        (["-m", "{module}:number"], "gives a int, not a torch.nn.Module"),
    ],
)
def test_a_bad_model_is_a_usage_error(module: str, arguments: list[str], message: str) -> None:
    outcome = run("apply", "net.pt", *(text.format(module=module) for text in arguments))
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]
    assert outcome.out == ""


def test_a_file_that_does_not_fit_the_model_is_refused(module: str, plain: Path) -> None:
    outcome = run("apply", plain, "-m", f"{module}:build")
    assert outcome.code == 1
    assert "fits the model strictly: Missing key(s)" in outcome.err
    assert outcome.out == ""


# whole modules


@pytest.mark.parametrize("scheme", ["weight_norm", "weight_standardization", "network_norm"])
def test_a_whole_model_goes_there_and_back(whole: Path, scheme: str) -> None:
    source = torch.load(whole, weights_only=False)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert "2 weights bit-identical" in run("apply", whole, "--trust", "-s", scheme).out
    assert "2 weights bit-identical" in run("fold", f"whole.{scheme}.pt", "--trust").out
    for path in (f"whole.{scheme}.pt", f"whole.{scheme}.folded.pt"):
        assert bits_equal(torch.load(path, weights_only=False)(x), source(x))
    folded = torch.load(f"whole.{scheme}.folded.pt", weights_only=False)
    assert difference(source.state_dict(), folded.state_dict()) is None


def test_a_whole_model_needs_trust(whole: Path, folder: Path) -> None:
    outcome = run("apply", whole)
    assert outcome.code == 1
    assert "would run code that it names: torch.nn.modules.container.Sequential; give --state-dict" in outcome.error
    assert "--trust" in outcome.error
    assert [path.name for path in folder.iterdir()] == ["whole.pt"]


def test_a_whole_model_is_its_own_model(whole: Path) -> None:
    assert "leave out --model" in run("apply", whole, "--trust", "-m", "a:b").error
    assert "no weighted op 'conv3d'" in run("apply", whole, "--trust", "--op", "conv3d").error


def test_a_whole_model_is_converted_once(whole: Path) -> None:
    run("apply", whole, "--trust")
    outcome = run("apply", "whole.weight_norm.pt", "--trust")
    assert outcome.code == 3
    assert "nothing to convert: already" in outcome.error


def test_the_result_loads_where_wnconvert_is_not(whole: Path) -> None:
    run("apply", whole, "--trust")
    code = (
        "import sys, torch\n"
        "assert 'wnconvert' not in sys.modules\n"
        "sys.modules['wnconvert'] = None\n"
        "print(torch.load('whole.weight_norm.pt', weights_only=False)(torch.ones(1, 1, 4, 4)).shape)\n"
        "sys.exit()\n"
    )
    assert run_process(cwd=Path.cwd(), code=code).out == "torch.Size([1, 3])\n"
