"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wnconvert.checkpoint.writing import write
from wnconvert.errors import OutputError


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    for content in (b"one", b"two"):
        write(tmp_path / "it", content)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("it", content)]


def test_what_is_no_file_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("folder", "give a file"), ("pipe", "never replaced"), ("none/it", "in no existing folder")):
        with pytest.raises(OutputError, match=problem):
            write(tmp_path / name, b"")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "pipe"}


def test_what_goes_wrong_in_between_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "it", b"old")

    def full(self: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot write .*: no space left on device"):
        write(tmp_path / "it", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("it", b"old")]
