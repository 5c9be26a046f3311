"""The records of a torch file that is written."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import torch

from wnconvert.checkpoint.pickles import archive
from wnconvert.checkpoint.storage.zip_archive import ALIGNMENT, Archive


def test_records_are_those_of_torch_and_can_be_mapped(tmp_path: Path) -> None:
    base = torch.arange(7.0)
    content = {"a": base[:3], "b": base[2:], "c": torch.ones(5, dtype=torch.int8)}
    archive.write(content, tmp_path / "file", {"wnconvert.json": b"{}"})
    written = Archive(tmp_path / "file")
    records = ["data.pkl", "byteorder", "data/0", "data/1", "wnconvert.json", "version"]
    assert written.names == [f"archive/{name}" for name in records]
    assert written.stored
    assert written.data("archive/byteorder").decode() == sys.byteorder
    assert written.data("archive/data/0") == base.numpy().tobytes()
    with zipfile.ZipFile(tmp_path / "file") as file:
        starts = [info.header_offset + len(info.FileHeader()) for info in file.infolist()]
    assert all(start % ALIGNMENT == 0 for start in starts)


def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    for name in ("one.pt", "two.bin"):
        archive.write({"a": torch.arange(7.0)}, tmp_path / name, {})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.bin").read_bytes()
