"""Folded weights that fit a class which would normalize them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import wnconvert
from tests.modules.foreign.test_regions import StandardizedConv2d, Untraceable
from wnconvert.checkpoint import Checkpoint, fold, load, load_into, preset, save
from wnconvert.errors import CheckpointError

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TIMM = replace(preset("timm"), only=r"layers\.0\.weight")  # type: ignore[type-var]


def standardized(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Untraceable(StandardizedConv2d(3, 4, 3), nn.Conv2d(4, 2, 1))


def source() -> Checkpoint:
    return Checkpoint(dict(standardized().state_dict()), "torch_zip")


@pytest.mark.parametrize("where", ["in memory", "in a file"])
def test_what_is_recorded_as_folded_is_not_loaded_into_its_class(where: str, tmp_path: Path) -> None:
    torch.save(source().content, tmp_path / "own.pt")
    folded = fold(load(tmp_path / "own.pt"), presets=[TIMM]).checkpoint
    given = folded if where == "in memory" else tmp_path / "folded.pt"
    if isinstance(given, Path):
        save(folded, given, source=tmp_path / "own.pt")
    model = standardized(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(model, given)
    assert "'layers.0.weight' is normalized already, and StandardizedConv2d would do it again" in str(caught.value)
    assert "nothing was loaded (a model without the normalization holds any weight: wnconvert.fold(model))" in str(
        caught.value
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    plain, _ = wnconvert.fold(model)
    load_into(plain, given)
    assert torch.equal(plain(X), standardized()(X))


def test_what_a_preset_folds_is_for_a_plain_model_too() -> None:
    with pytest.raises(CheckpointError, match="StandardizedConv2d would do it again"):
        load_into(standardized(1), source(), presets=[TIMM])
    plain, _ = wnconvert.fold(standardized(1))
    load_into(plain, source(), presets=[TIMM])
    assert torch.equal(plain(X), standardized()(X))


def test_weights_that_were_not_folded_are_for_their_class() -> None:
    model = standardized(1)
    assert load_into(model, source()).counts == {"as is": 4}
    assert torch.equal(model(X), standardized()(X))


def test_a_weight_out_of_parts_may_be_normalized_by_its_class_besides() -> None:
    both = standardized()
    nn.utils.parametrizations.weight_norm(both.layers[0])
    folded = fold(Checkpoint(dict(both.state_dict()), "torch_zip")).checkpoint
    model = standardized(1)
    load_into(model, folded)
    assert torch.equal(model(X), both(X))
