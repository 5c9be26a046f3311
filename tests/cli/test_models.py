"""The model of ``--model``, and a whole one in a file, whose proof must notice when something is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import converted, report, run
from wnconvert import api
from wnconvert.checkpoint import difference, load


def tampered(monkeypatch: pytest.MonkeyPatch, name: str, tamper: Any) -> None:
    """Let a conversion of `wnconvert.api` return a model that ``tamper`` has changed."""
    original = getattr(api, name)

    def convert(*args: Any, **kwargs: Any) -> Any:
        conversion = original(*args, **kwargs)
        with torch.no_grad():
            tamper(conversion.model)
        return conversion

    monkeypatch.setattr(api, name, convert)


def test_a_wrong_weight_is_noticed(whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered(monkeypatch, "apply", lambda model: model.get_parameter("2.weight_g").mul_(1 + 2**-20))
    outcome = run("apply", whole, "--trust")
    assert outcome.code == 4
    assert outcome.error == "'2.weight' in the written file is not what it was; nothing was kept"
    assert [path.name for path in folder.iterdir()] == ["whole.pt"]


def test_a_model_that_does_not_load_is_noticed(whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(model: Any) -> None:
        layer = model.get_submodule("2")
        layer.weight_x = layer.weight_g
        del layer.weight_g

    tampered(monkeypatch, "apply", rename)
    outcome = run("apply", whole, "--trust")
    assert outcome.code == 4
    assert outcome.error.startswith("what was written cannot be read back, so it was not kept")
    assert [path.name for path in folder.iterdir()] == ["whole.pt"]


def test_a_part_left_behind_is_noticed(whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("apply", whole, "--trust").code == 0
    part = torch.nn.Parameter(torch.ones(1))
    tampered(monkeypatch, "fold", lambda model: model.get_submodule("2").register_parameter("weight_g", part))
    outcome = run("fold", "whole.weight_norm.pt", "--trust")
    assert outcome.code == 4
    assert outcome.error == "the written model still has '2.weight_g'; nothing was kept"
    assert not (folder / "whole.weight_norm.folded.pt").exists()


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


@pytest.mark.parametrize("norm", ["torch.nn.utils.weight_norm", "torch.nn.utils.parametrizations.weight_norm"])
def test_the_model_may_be_built_with_its_norms(folder: Path, norm: str) -> None:
    """A project's own class is the model that people have at hand."""
    Path("normed.py").write_text(
        f"import torch\n\ndef build():\n    return torch.nn.Sequential({norm}(torch.nn.Linear(3, 4)))\n"
    )
    layer = torch.nn.utils.weight_norm(torch.nn.Linear(3, 4))
    torch.save({f"0.{name}": tensor for name, tensor in layer.state_dict().items()}, "a.pt")
    torch.save({"0.weight": layer.weight.detach(), "0.bias": layer.bias.detach()}, "b.pt")
    arguments = ("--model", "normed.py:build")
    assert converted(run("fold", "a.pt", "--json", *arguments)) == ["0.weight"]
    assert converted(run("apply", "b.pt", "--json", *arguments)) == ["0.weight"]
    if "parametrizations" not in norm:
        assert run("apply", "a.pt", *arguments).error == "nothing to convert: already under weight_norm (1 weight)"
