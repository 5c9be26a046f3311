"""Inspecting without torch says what inspecting with torch says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from tests.checkpoint.conftest import state_dict
from tests.checkpoint.test_fuzz import state_dicts
from tests.cli.conftest import run_fresh
from wnconvert.checkpoint import Checkpoint, apply, inspect, load, save
from wnconvert.checkpoint.formats.safetensors import DTYPES
from wnconvert.checkpoint.inspecting.without_torch import dtype_name, inspect_without_torch
from wnconvert.errors import CheckpointError
from wnconvert.scheme import SCHEMES


def check_same(path: Path) -> None:
    seen = inspect_without_torch(path)
    assert seen is not None
    summary, metadata = seen
    checkpoint = load(path)
    assert ([summary] if summary else []) == inspect(checkpoint)
    assert metadata == checkpoint.metadata


@pytest.mark.parametrize("name", [None, *SCHEMES])
def test_both_ways_say_the_same(tmp_path: Path, name: str | None, dtype: torch.dtype) -> None:
    path, converted = tmp_path / "plain.safetensors", tmp_path / "converted.safetensors"
    save_file({key: tensor.clone() for key, tensor in state_dict(dtype).items()}, path, {"a": "b"})
    if name is not None:
        save(apply(load(path), name, dim=0).checkpoint, converted, source=path)
    check_same(path if name is None else converted)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=state_dicts())
def test_both_ways_say_the_same_of_odd_files(tmp_path: Path, content: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(content, path)
    check_same(path)


def test_every_dtype_has_torchs_name() -> None:
    for dtype, name in DTYPES.items():
        assert dtype_name(name) == str(dtype).removeprefix("torch.")


def test_what_is_not_safetensors_is_left_to_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    assert inspect_without_torch(tmp_path / "a.pt") is None
    assert inspect_without_torch(tmp_path) is None
    assert inspect_without_torch(tmp_path / "missing") is None


def test_a_manifest_that_cannot_be_read_is_left_to_the_other_way(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a", {"wnconvert": "[]"})
    assert inspect_without_torch(tmp_path / "a") is None
    with pytest.raises(CheckpointError, match="manifest"):
        inspect(Checkpoint({"a": torch.ones(1)}, "safetensors", {"wnconvert": "[]"}))


TORCH = """
import atexit, sys
atexit.register(lambda: print("TORCH" if "torch" in sys.modules else "LIGHT", flush=True))
"""


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
def test_a_safetensors_file_is_inspected_without_torch(tmp_path: Path, json: list[str]) -> None:
    state = apply(Checkpoint({k: t.clone() for k, t in state_dict().items()}, "safetensors"), dim=0).checkpoint
    save(state, tmp_path / "a", source=tmp_path / "none")
    done = run_fresh("inspect", "a", *json, cwd=tmp_path, code=TORCH)
    assert "weight_norm" in done.out
    assert done.out.endswith("LIGHT\n"), done.err


def test_the_check_for_torch_can_fail(tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / "b")
    assert run_fresh("inspect", "b", cwd=tmp_path, code=TORCH).out.endswith("TORCH\n")
