"""Files that are written in the background."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from wnconvert.checkpoint.storage import output
from wnconvert.checkpoint.storage.output import AHEAD, SMALL, Output

LARGE = [bytes([number]) * (SMALL + number) for number in range(4 * AHEAD)]


def fill(path: Path, error: Exception | None = None) -> None:
    with Output(path) as file:
        for large in LARGE:
            file.write(large)
        if error is not None:
            raise error


def test_pieces_of_every_size_keep_their_order(tmp_path: Path) -> None:
    path, pieces = tmp_path / "file", []
    with Output(path) as file:
        for number, large in enumerate(LARGE):
            for piece in (large, b"small %d" % number, memoryview(large)[:SMALL]):
                assert file.write(piece) == len(piece)
                pieces.append(piece)
    assert path.read_bytes() == b"".join(pieces)


def test_what_was_written_can_be_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Output(path) as file:
        file.write(b"head")
        file.write(LARGE[1])
        assert file.tell() == 4 + len(LARGE[1])
        assert file.seek(0) == 0
        file.write(b"HEAD")
        assert file.seek(0, os.SEEK_END) == 4 + len(LARGE[1])
        file.write(LARGE[2])
    assert path.read_bytes() == b"HEAD" + LARGE[1] + LARGE[2]


def test_it_is_brought_to_the_disk_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(output, "FLUSHED", 3 * SMALL)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size), raising=False)
    with Output(tmp_path / "file") as file:
        for large in LARGE:
            file.write(large)
    assert synced
    assert max(synced) > 0


def test_the_error_of_a_thread_is_raised_and_the_threads_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = threading.active_count()
    monkeypatch.setattr(output, "FLUSHED", SMALL)
    monkeypatch.setattr(os, "fdatasync", full, raising=False)
    with pytest.raises(OSError, match="No space left"), Output(tmp_path / "file") as file:
        file.write(LARGE[0])
    assert threading.active_count() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_noticed() -> None:
    with pytest.raises(OSError, match="No space left"):
        fill(Path("/dev/full"))


def test_an_error_of_the_caller_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="of the caller"):
        fill(tmp_path / "file", ValueError("of the caller"))
    assert threading.active_count() == before
