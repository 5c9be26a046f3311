"""Names that lead out of a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wnconvert.checkpoint import load
from wnconvert.checkpoint.storage import paths
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


def test_links_in_circles_are_compared_like_others(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert paths.same(loop, loop)
    assert not paths.same(loop, tmp_path / "a")
    assert paths.within(loop, tmp_path)
    assert not paths.within(tmp_path, loop)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_only_regular_files_that_are_short_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert paths.read_small(tmp_path / "file", 4) == b"1234"
    with pytest.raises(CheckpointError, match="too long for what it is: it has 4 bytes"):
        paths.read_small(tmp_path / "file", 3)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="is not a regular file"):
            paths.read_small(path, 4)


def test_every_file_has_a_name_that_libraries_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = tmp_path / "plain", tmp_path / os.fsdecode(b"\xff")
    for path in (plain, other):
        path.write_bytes(b"1234")
        with paths.spelled(path) as name:
            assert Path(name.encode().decode()).read_bytes() == b"1234"
    with paths.spelled(plain) as name:
        assert name == str(plain)
    monkeypatch.setattr(paths, "DESCRIPTORS", tmp_path / "none")
    with pytest.raises(CheckpointError, match="is no UTF-8"), paths.spelled(other):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_files_of_a_folder_are_regular_ones(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CheckpointError, match=r"fifo' is not a regular file"):
        paths.inside(tmp_path, "fifo")
    with pytest.raises(CheckpointError, match="no such file"):
        paths.inside(tmp_path, "gone")
