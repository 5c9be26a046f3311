"""torch files with an index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint import FORMATS, Checkpoint, load
from wnconvert.errors import CheckpointError


def index_of(folder: Path, **shards: object) -> Path:
    """Write shards, each of one name, and their index."""
    for name, content in shards.items():
        torch.save(content, folder / f"{name}.bin", _use_new_zipfile_serialization=name != "old")
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {name: f"{name}.bin" for name in shards}}))
    return path


def test_shards_of_both_containers_of_torch_are_read(tmp_path: Path) -> None:
    content = load(index_of(tmp_path, new={"new": torch.ones(2)}, old={"old": torch.ones(3)})).content
    assert {name: tuple(tensor.shape) for name, tensor in content.items()} == {"new": (2,), "old": (3,)}


@pytest.mark.parametrize("content", [{"b": torch.ones(1), "c": 3}, [torch.ones(1)]])
def test_a_shard_with_anything_else_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"b\.bin' is no torch file with tensors alone"):
        load(index_of(tmp_path, a={"a": torch.ones(1)}, b=content))


def test_shards_are_no_larger_than_those_of_the_origin_and_ties_stay_together(tmp_path: Path) -> None:
    origin, target = tmp_path / "origin", tmp_path / "target"
    origin.mkdir()
    target.mkdir()
    index = index_of(origin, a={"a": torch.ones(5000)}, b={"b": torch.ones(100)})
    tied = torch.ones(4000)
    content = {"a": tied, "b": torch.ones(4000), "c": tied, "d": torch.ones(1000)}
    FORMATS.get("torch_sharded")().write(Checkpoint(content, "torch_sharded", origin=index), target)
    names = json.loads((target / index.name).read_text())
    assert names["weight_map"] == {
        "a": "pytorch_model-00001-of-00002.bin",
        "b": "pytorch_model-00002-of-00002.bin",
        "c": "pytorch_model-00001-of-00002.bin",
        "d": "pytorch_model-00002-of-00002.bin",
    }
    assert names["metadata"]["total_size"] == 4 * 9000
    back = load(target).content
    assert list(back) == list(content)
    assert back["a"].untyped_storage().data_ptr() == back["c"].untyped_storage().data_ptr()
