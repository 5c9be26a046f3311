"""The proof of a whole model must notice when something is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import run
from wnconvert import api


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
