"""Archives whose directories lie."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.checkpoint.hostile import archive, torch_records
from wnconvert.checkpoint import load
from wnconvert.checkpoint.storage import limits
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
