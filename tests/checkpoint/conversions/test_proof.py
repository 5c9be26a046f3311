"""What a written file must hold, and fold back to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoint.conftest import checkpoint
from wnconvert.checkpoint import (
    Checkpoint,
    apply,
    load,
    save,
    unfold,
    verify_apply,
    verify_unfold,
)
from wnconvert.checkpoint.layout import read_preset
from wnconvert.errors import (
    VerificationError,
)
from wnconvert.schemes.weight_norm import WeightNorm


@pytest.mark.parametrize("key", ["model", "loss", "steps"])
def test_verification_looks_at_everything(source: Path, tmp_path: Path, key: str) -> None:
    before = load(source)
    applied = apply(before)
    applied.checkpoint.content[key] = None
    with pytest.raises(VerificationError, match="fold back"):
        save(applied.checkpoint, tmp_path / "out.pt", source=source, verify=lambda w: verify_apply(before, applied, w))


@pytest.mark.parametrize("scheme", ["weight_norm", "unit_norm"])
def test_a_lost_record_is_noticed(source: Path, tmp_path: Path, scheme: str) -> None:
    before = load(source)
    applied = apply(before, scheme)
    changed = Checkpoint(applied.checkpoint.content, "torch_zip", {"other": "x"})
    with pytest.raises(VerificationError, match="the metadata differ"):
        save(changed, tmp_path / "out.pt", source=source, verify=lambda w: verify_apply(before, applied, w))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_a_written_file_that_lost_something_is_noticed() -> None:
    source = checkpoint({"a.weight": torch.randn(4, 3, 3, 3)})
    unfolded = unfold(source, "weight_norm_hook")
    wrong = checkpoint({**unfolded.checkpoint.content, "a.weight_g": torch.ones(4, 1, 1, 1)})
    with pytest.raises(VerificationError, match="is not what was to be written"):
        verify_unfold(source, unfolded, wrong, read_preset("weight_norm_hook"))


@pytest.mark.parametrize("name", ["torch_zip", "safetensors"])
def test_small_weights_are_split_at_once_and_each_is_composed_once_more_from_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"split": 0, "compose": 0}

    def count(what: str) -> None:
        original = getattr(WeightNorm, what)

        def counted(*args: object) -> object:
            calls[what] += 1
            return original(*args)

        monkeypatch.setattr(WeightNorm, what, counted)

    before = Checkpoint({f"{index}.weight": torch.randn(4, 6) for index in range(3)}, name)
    count("split")
    count("compose")
    applied = apply(before)
    save(
        applied.checkpoint, tmp_path / "out", source=tmp_path / "in", verify=lambda w: verify_apply(before, applied, w)
    )
    assert calls == {"split": 1, "compose": 1 + 3}
