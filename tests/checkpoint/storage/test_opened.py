"""A path is opened once, however many formats look at it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from wnconvert.checkpoint import load, recognise
from wnconvert.checkpoint.storage import shards
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is opened, and how often its zip directory is read."""
    seen: Counter[str] = Counter()
    open_file, open_zip = Path.open, zipfile.ZipFile.__init__

    def opening(path: Path, *args: Any, **options: Any) -> Any:
        seen[path.name] += 1
        return open_file(path, *args, **options)

    def reading(archive: zipfile.ZipFile, file: str | Path, *args: Any, **options: Any) -> None:
        seen[f"directory of {Path(file).name}"] += 1
        open_zip(archive, file, *args, **options)

    monkeypatch.setattr(Path, "open", opening)
    monkeypatch.setattr(zipfile.ZipFile, "__init__", reading)
    return seen


def test_the_directory_of_a_torch_file_is_read_once(tmp_path: Path, opens: Counter[str]) -> None:
    path = tmp_path / "model.pt"
    torch.save({f"{index}.weight": torch.ones(2, 2) for index in range(50)}, path)
    opens.clear()
    load(path)
    assert opens["directory of model.pt"] == 1
    assert opens["model.pt"] <= 3, "the first bytes, and the headers of all records in one go"


def test_what_was_recognised_is_not_opened_again_to_be_loaded(tmp_path: Path, opens: Counter[str]) -> None:
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "model.pt")
    opened = Opened(tmp_path / "model.pt")
    opens.clear()
    assert recognise(opened).name == "torch_zip"
    assert load(opened).content.keys() == {"weight"}
    assert opens["directory of model.pt"] == 1


def test_an_index_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "model-00001-of-00001.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "model-00001-of-00001.bin"}}))
    read, seen = shards.read, []
    monkeypatch.setattr(shards, "read", lambda path: (seen.append(path), read(path))[1])
    for path in (index, tmp_path):
        assert load(path).format == "torch_sharded"
    assert seen == [index, index]


def test_a_damaged_archive_shows_the_name_of_its_first_record(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2, 2)}, path)
    path.write_bytes(path.read_bytes()[:300])
    opened = Opened(path)
    assert opened.records == ("model/data.pkl",)
    assert opened.has("data.pkl")
    assert not opened.has("version")
    with pytest.raises(CheckpointError, match="cut short"):
        load(opened)


def test_folders_and_other_files_have_no_records(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("PK")
    for path in (tmp_path, tmp_path / "text"):
        assert not Opened(path).records
    assert Opened(tmp_path).start == b""


def test_the_first_bytes_are_told_without_torch(tmp_path: Path) -> None:
    script = """
import sys
from wnconvert.checkpoint.storage.opened import Opened
Opened(sys.argv[1]).start
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
