from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from tests.checkpoint.conftest import state_dict
from wnconvert.checkpoint import FORMATS, Checkpoint, difference, load
from wnconvert.errors import CheckpointError


def test_metadata_of_a_torch_zip_do_not_disturb_torch(tmp_path: Path) -> None:
    path, state = tmp_path / "file.pt", state_dict()
    FORMATS.get("torch_zip")().write(Checkpoint(state, "torch_zip", {"wnconvert": "{}"}), path)
    for mmap in (False, True):
        assert difference(state, torch.load(path, mmap=mmap, weights_only=True)) is None


def test_a_compressed_archive_is_not_mapped(tmp_path: Path) -> None:
    path, packed = tmp_path / "file.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert difference({"a": torch.arange(1000.0)}, load(packed).content) is None


@pytest.mark.parametrize("text", ["not json", "[]", "7"])
def test_damaged_metadata_are_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("file/wnconvert.json", text)
    with pytest.raises(CheckpointError, match=r"wnconvert\.json"):
        load(path)
