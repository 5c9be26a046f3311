"""How far a long operation is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint import apply, load, save
from wnconvert.checkpoint.content.advance import advance, told


def test_what_is_done_adds_up_and_never_exceeds_the_total() -> None:
    steps: list[tuple[int, int]] = []
    with told(lambda done, total: steps.append((done, total)), 10):
        for size in (3, 4, 5):
            advance(size)
    advance(3)
    assert steps == [(3, 10), (7, 10), (10, 10)]


def test_nobody_is_told_where_nobody_asked() -> None:
    with told(None, 10):
        advance(3)


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
def test_writing_and_verifying_tell_how_far_they_are(tmp_path: Path, suffix: str) -> None:
    torch.save({f"{index}.weight": torch.randn(64, 1024) for index in range(8)}, tmp_path / "x.pt")
    source = load(tmp_path / "x.pt")
    formats = {"pt": "torch_zip", "safetensors": "safetensors", "npz": "npz"}
    converted = apply(source).checkpoint
    converted = type(converted)(dict(converted.content), formats[suffix], converted.metadata)
    steps: list[tuple[int, int]] = []
    save(
        converted,
        tmp_path / f"y.{suffix}",
        source=tmp_path / "x.pt",
        progress=lambda done, all_: steps.append((done, all_)),
    )
    done = [step for step, _ in steps]
    size = 8 * 64 * 1024 * 4
    assert {total for _, total in steps} == {2 * (size + 8 * 64 * 4)}
    assert done == sorted(done)
    assert done[-1] == steps[-1][1]
    assert any(size // 2 <= step <= size for step in done)  # in between, not only at the end
