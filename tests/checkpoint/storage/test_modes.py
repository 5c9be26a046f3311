"""Outputs that may be read by whoever may read the input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoint.formats.samples import model_folder
from wnconvert.checkpoint import FORMATS, Checkpoint, load, save

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")

WRITTEN = [name for name in FORMATS if FORMATS.get(name).not_written is None]
FILES = [name for name in WRITTEN if not FORMATS.get(name).folder]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): mode(path) for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("given", [0o600, 0o640, 0o444, 0o666, 0o755])
@pytest.mark.parametrize("name", FILES)
def test_a_file_keeps_the_mode_of_its_input(tmp_path: Path, name: str, given: int) -> None:
    source, output = tmp_path / "in.safetensors", tmp_path / "out"
    save_file({"a.weight": torch.ones(3)}, source)
    source.chmod(given)
    output.touch(0o644)
    save(Checkpoint({"a.weight": torch.ones(3)}, name, {"wnconvert.test": "x"}), output, source=source, force=True)
    assert {path.name: mode(path) for path in tmp_path.iterdir()}.items() >= {"out": given, source.name: given}.items()
    record = tmp_path / "out.wnconvert.json"
    assert record.exists() is not FORMATS.get(name).annotated
    assert not record.exists() or mode(record) & ~0o600 == given & ~0o600
    assert load(output).metadata["wnconvert.test"] == "x"


def test_special_bits_are_not_kept(source: Path, tmp_path: Path) -> None:
    source.chmod(0o4755)
    save(load(source), tmp_path / "out.pt", source=source)
    assert mode(tmp_path / "out.pt") == 0o755


@pytest.mark.parametrize("name", WRITTEN)
def test_nobody_else_can_read_what_is_being_written(tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.safetensors"
    save_file({"a.weight": torch.ones(3)}, source)
    source.chmod(0o600)
    seen: list[int] = []

    def look(written: Checkpoint) -> None:
        room = next(tmp_path.glob(".wnconvert-*"))
        assert mode(room) == 0o700
        seen.extend(mode(path) for path in (room / "new").rglob("*"))

    save(Checkpoint({"a.weight": torch.ones(3)}, name, {}), tmp_path / "out", source=source, verify=look)
    assert seen
    assert not any(each & 0o077 for each in seen)


def test_each_file_of_a_folder_keeps_its_mode(tmp_path: Path) -> None:
    source, output = tmp_path / "net", tmp_path / "out"
    model_folder(source)
    (source / "config.json").chmod(0o644)
    (source / "sub" / "vocab.txt").chmod(0o444)
    for path in source.glob("*.safetensors*"):
        path.chmod(0o640)
    (source / "sub").chmod(0o555)
    source.chmod(0o750)
    save(load(source), output, source=source)
    assert modes(output) == modes(source)
    save(load(source), output, source=source, force=True)
    assert modes(output) == modes(source)


def test_new_files_of_a_folder_get_what_all_of_its_files_allow(tmp_path: Path) -> None:
    source, output = tmp_path / "net", tmp_path / "out"
    model_folder(source, shards=2)
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (source / "model-00001-of-00002.safetensors").chmod(0o640)
    source.chmod(0o711)
    save(Checkpoint(load(source).content, "safetensors_sharded", {}), output, source=source)
    assert modes(output) == {
        ".": 0o711,
        "model.safetensors.index.json": 0o644,  # of this name, there is one
        "model-00001-of-00001.safetensors": 0o640,
    }
    source.chmod(0o750)
    save(Checkpoint(load(source).content, "safetensors", {}), tmp_path / "out.safetensors", source=source)
    assert mode(tmp_path / "out.safetensors") == 0o640
    source.chmod(0o700)
    save(Checkpoint(load(source).content, "safetensors", {}), tmp_path / "out.safetensors", source=source, force=True)
    assert mode(tmp_path / "out.safetensors") == 0o600


def test_a_folder_made_from_files_may_be_entered_by_who_may_read_them(tmp_path: Path) -> None:
    source, output = tmp_path / "net", tmp_path / "out"
    model_folder(source, shards=2)
    index = source / "model.safetensors.index.json"
    index.chmod(0o644)
    for path in source.glob("model-*"):
        path.chmod(0o640)
    save(load(index), output, source=index)
    assert set(modes(output).items()) == {(".", 0o750), *((path.name, 0o640) for path in output.iterdir())}
