"""A path that may be a checkpoint, opened once for all formats that are asked about it."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wnconvert.errors import CheckpointError

if TYPE_CHECKING:
    from wnconvert.checkpoint.storage.shards import Index
    from wnconvert.checkpoint.storage.zip_archive import Archive

#: how a zip archive begins, and how long the first header is without the name that follows it.
ZIP, ZIP_HEADER = b"PK\x03\x04", 30


def require_file(path: Path) -> None:
    """Check that there is a file that is not empty, or a folder.

    Raises:
        CheckpointError: there is not.
    """
    if not path.exists():
        raise CheckpointError(f"no such file: {str(path)!r}")
    if not path.is_file() and not path.is_dir():
        raise CheckpointError(f"{str(path)!r} is not a regular file")
    if path.is_file() and path.stat().st_size == 0:
        raise CheckpointError(f"{str(path)!r} is empty")


class Opened:
    """A file or folder as formats look at it; each thing is read when it is first asked for, and then kept.

    Archives and indexes take torch; telling a file by its first bytes does not.

    Attributes:
        path: the file or folder.
        is_folder: which of the two it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_folder = self.path.is_dir()

    @cached_property
    def start(self) -> bytes:
        """The first bytes of a file, at most 512; a folder has none."""
        if self.is_folder:
            return b""
        with self.path.open("rb") as file:
            return file.read(512)

    @cached_property
    def archive(self) -> Archive:
        """The zip archive that the file is.

        Raises:
            CheckpointError: it is damaged.
        """
        from wnconvert.checkpoint.storage.zip_archive import Archive

        return Archive(self.path)

    @cached_property
    def records(self) -> tuple[str, ...]:
        """The names of the records of a zip archive; of a damaged one, that of the first. Other files have none."""
        if not self.start.startswith(ZIP):
            return ()
        try:
            return tuple(self.archive.names)
        except CheckpointError:
            length = int.from_bytes(self.start[26:28], "little")
            return (self.start[ZIP_HEADER : ZIP_HEADER + length].decode(errors="replace"),)

    def has(self, record: str) -> bool:
        """Return whether there is a record of that name, whatever the folder around all of them is called."""
        return any(name.partition("/")[2] == record for name in self.records)

    @cached_property
    def index(self) -> Index | None:
        """The index of shards that the path means: the file itself, or the one in a folder of it and its shards alone.

        Raises:
            CheckpointError: the file is an index, but names what it must not, or what does not exist.
        """
        from wnconvert.checkpoint.storage import shards

        return shards.find(self.path)
