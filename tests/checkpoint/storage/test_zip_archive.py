"""Archives: those whose directories lie, and those that are written."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch

from tests.checkpoint.conftest import leftovers
from tests.checkpoint.formats.samples import write_foreign
from tests.checkpoint.hostile import archive, torch_records
from wnconvert.checkpoint import FORMATS, Checkpoint, inspect, load, save, verify
from wnconvert.checkpoint.storage import limits, zip_archive
from wnconvert.checkpoint.storage.output import SMALL, Output
from wnconvert.errors import CheckpointError


def test_an_archive_that_would_inflate_without_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEAST", 1 << 20)
    bomb = archive(tmp_path / "bomb", {**torch_records(), "archive/x": bytes(1 << 24)}, deflated=True)
    with pytest.raises(CheckpointError, match="would inflate from"):
        load(bomb)


@pytest.mark.parametrize("size", [5, 1 << 31, 0xFFFFFFFE])
@pytest.mark.parametrize("place", ["file_size", "both"])
def test_a_zip_directory_that_lies_about_sizes_is_refused(tmp_path: Path, size: int, place: str) -> None:
    path = archive(tmp_path / "lie", torch_records())
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    while b"data/0" not in data[entry : entry + 80]:
        entry = data.index(b"PK\x01\x02", entry + 1)
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    if place == "both":
        data[entry + 20 : entry + 24] = size.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load(path)


def test_a_record_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "twice", torch_records())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data.pkl", b"other")
    with pytest.raises(CheckpointError, match="occurs twice"):
        load(path)


ZIPS = ["torch_zip", "npz", "torch_export", "torchscript", "torch_package", "torch_sharded", "model_folder"]


def with_a_flipped_bit(name: str, folder: Path) -> Path:
    """Write a file of a kind in which one bit of a tensor is another; return what to read."""
    kind = FORMATS.get(name)
    path = file = folder / f"in{kind.suffixes[-1] if kind.suffixes else ''}"
    content = {"a.weight": torch.randn(64, 64)}
    if kind.not_written:
        write_foreign(name, path)
    elif kind.folder:
        path.mkdir()
        file = path / "pytorch_model.bin"
        torch.save(content, file)
        if name == "torch_sharded":
            index = {"weight_map": dict.fromkeys(content, file.name)}
            (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        kind().write(Checkpoint(content, name), path)
    with zipfile.ZipFile(file) as read:
        tensors = [info for info in read.infolist() if re.search(r"data/\d+|\.storage|weight_\d+|\.npy", info.filename)]
    largest = max(tensors, key=lambda info: info.file_size)
    data = bytearray(file.read_bytes())
    head = largest.header_offset + 26
    start = head + 4 + sum(int.from_bytes(data[place : place + 2], "little") for place in (head, head + 2))
    data[start + largest.file_size - 1] ^= 1
    file.write_bytes(data)
    return path


@pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated:UserWarning")
@pytest.mark.parametrize("name", ZIPS)
def test_a_flipped_bit_of_a_mapped_tensor_is_found_before_anything_is_written(tmp_path: Path, name: str) -> None:
    source = with_a_flipped_bit(name, tmp_path)
    checkpoint = load(source)
    assert checkpoint.format == name
    inspect(checkpoint)
    target = "torch_zip" if FORMATS.get(name).not_written else name
    with pytest.raises(CheckpointError, match="does not have the checksum that it claims"):
        save(FORMATS.get(target)().adopt(checkpoint), tmp_path / "out", source=source)
    with pytest.raises(CheckpointError, match="does not have the checksum that it claims"):
        verify(checkpoint, checkpoint)
    assert leftovers(tmp_path, source.name) == set()


def test_all_containers_that_are_zip_archives_are_among_them(tmp_path: Path) -> None:
    others = {"safetensors", "safetensors_sharded", "torch_legacy"}
    assert set(FORMATS) == {*ZIPS, *others}


def test_an_archive_without_checksums_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    path, content = tmp_path / "in.pt", {"a.weight": torch.randn(9, 9)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as read:
        assert {info.CRC for info in read.infolist()} == {0}, "torch writes none"
    checkpoint = load(path)
    assert torch.equal(checkpoint.content["a.weight"], content["a.weight"])
    save(checkpoint, tmp_path / "out.pt", source=path)
    with zipfile.ZipFile(tmp_path / "out.pt") as written:
        assert written.testzip() is None
        assert all(info.CRC for info in written.infolist())


def test_what_was_changed_in_memory_is_no_damage(tmp_path: Path) -> None:
    path = archive(tmp_path / "in.pt", torch_records())
    checkpoint = load(path)
    checkpoint.content["a.weight"].add_(1)
    save(checkpoint, tmp_path / "out.pt", source=path)
    assert torch.equal(load(tmp_path / "out.pt").content["a.weight"], torch.full((4, 4), 2.0))


@pytest.mark.parametrize("more", [-4, -1, 1, 2, 4, 64])
def test_a_record_that_has_not_the_size_of_its_tensor_is_refused(tmp_path: Path, more: int) -> None:
    records = torch_records()
    name = next(name for name in records if name.endswith("data/0"))
    records[name] = (records[name] + bytes(64))[: len(records[name]) + more]
    path = archive(tmp_path / "in.pt", records)
    with pytest.raises(RuntimeError):
        torch.load(path)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


def test_records_are_those_that_zipfile_writes(tmp_path: Path) -> None:
    records = {"a": b"", "ä": b"x" * 100, "large": bytes(SMALL), "small": bytes(SMALL - 1)}
    with Output(tmp_path / "own") as file, zip_archive.writable(file) as own:
        for name, data in records.items():
            zip_archive.add(own, file, name, [data[:10], data[10:]], len(data))
    with zipfile.ZipFile(tmp_path / "own") as own:
        infos = own.infolist()
        assert own.testzip() is None
        assert {info.filename: own.read(info) for info in infos} == records
    with zipfile.ZipFile(tmp_path / "theirs", "w") as theirs:
        for info in infos:
            theirs.writestr(_as_new(info), records[info.filename])
    assert (tmp_path / "own").read_bytes() == (tmp_path / "theirs").read_bytes()


def _as_new(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    new = zipfile.ZipInfo(info.filename)
    padding = -(info.header_offset + 30 + len(info.filename.encode()) + 4) % zip_archive.ALIGNMENT
    new.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    return new
