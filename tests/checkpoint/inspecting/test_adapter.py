"""Adapters are shown as what they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoint.conftest import checkpoint
from tests.cli.conftest import report, run
from wnconvert.checkpoint import apply, inspect, load
from wnconvert.checkpoint.inspecting.adapter import base_of
from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch
from wnconvert.errors import NothingToConvertError


def adapter(folder: Path, *, dora: bool = True, config: Any = None) -> Path:
    """Write what PEFT saves of an adapter of rank 2 over two layers."""
    folder.mkdir(exist_ok=True)
    tensors = {}
    for name in ("first", "second"):
        prefix = f"base_model.model.{name}"
        tensors |= {f"{prefix}.lora_A.weight": torch.ones(2, 4), f"{prefix}.lora_B.weight": torch.ones(3, 2)}
        tensors |= {f"{prefix}.lora_magnitude_vector": torch.ones(3)} if dora else {}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 4, "use_dora": dora}
    (folder / "adapter_config.json").write_text(json.dumps(told if config is None else config))
    return folder


@pytest.mark.parametrize("dora", [True, False])
def test_an_adapter_is_shown_with_its_rank_and_its_base(tmp_path: Path, dora: bool) -> None:
    folder = adapter(tmp_path / "a", dora=dora)
    shown = f"{'DoRA' if dora else 'LoRA'} of rank 2 on 2 weights"
    for path in (folder, folder / "adapter_model.safetensors"):
        data: Any = report(run("inspect", path, "--json"))
        (summary,) = data["state_dicts"]
        assert summary["adapter"] == shown
        assert summary["plain"] == []
        (note,) = data["notes"]
        assert note.startswith("an adapter over the base 'org/base'; ")
        assert note.endswith(f"wnconvert fold BASE --adapter {str(path)!r}")
        assert f"adapter     {shown}" in run("inspect", path).out


def test_with_torch_and_without_it_is_the_same(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a") / "adapter_model.safetensors"
    seen = inspect_without_torch(path)
    assert seen is not None
    assert [seen[0]] == inspect(load(path))


def test_a_base_with_an_adapter_in_it_has_its_own_weights_beside() -> None:
    live = {"l.base_layer.weight": torch.ones(3, 4), "l.lora_A.default.weight": torch.ones(2, 4)}
    (summary,) = inspect(checkpoint({**live, "l.lora_B.default.weight": torch.ones(3, 2)}))
    assert (summary.adapter, summary.plain) == ("LoRA of rank 2 on 1 weight", ("l.base_layer.weight",))


def test_its_factors_are_no_weights_to_be_split(tmp_path: Path) -> None:
    with pytest.raises(NothingToConvertError, match=r"of an adapter; fold it into its base \(--adapter\)"):
        apply(load(adapter(tmp_path / "a")))


@pytest.mark.parametrize("config", [[], {}, {"base_model_name_or_path": 3}, {"base_model_name_or_path": ""}])
def test_a_config_that_names_no_base(tmp_path: Path, config: Any) -> None:
    folder = adapter(tmp_path / "a", config=config)
    assert base_of(folder) is None
    assert "over a base that is not in it" in run("inspect", folder, "--json").out


def test_a_config_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert base_of(tmp_path) is None
    os.mkfifo(tmp_path / "adapter_config.json")
    assert base_of(tmp_path) is None
