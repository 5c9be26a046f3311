"""Names that lead out of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wnconvert.checkpoint import load
from wnconvert.errors import CheckpointError


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "", ".", "..", "a\0b", "..\\secret"]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    for names in ({"a": name}, {"a": str(tmp_path / "secret.safetensors")}):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CheckpointError):
            load(index)


def test_a_link_to_a_shard_elsewhere_is_not_followed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model-00001-of-00001.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        load(index)
    (folder / "model-00001-of-00001.safetensors").unlink()
    (folder / "real").write_bytes((tmp_path / "secret.safetensors").read_bytes())
    (folder / "model-00001-of-00001.safetensors").symlink_to("real")
    assert list(load(index).content) == ["a"]
