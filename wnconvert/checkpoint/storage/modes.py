"""Who may read and write an output: those who may the input, and nobody else."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wnconvert.checkpoint.storage.opened import Opened

ALL, READ, EXECUTE = 0o777, 0o444, 0o111
#: what the owner needs to write, and read again, what is not in its place yet.
OWNER_FILE, OWNER_FOLDER = 0o600, 0o700


@dataclass(frozen=True)
class Modes:
    """The permissions of an input, which what is made of it gets.

    Attributes:
        file: of a file that the input does not have: what all its files allow.
        folder: of a folder.
        named: of files and folders that are in it, by their path in it.
    """

    file: int
    folder: int
    named: Mapping[Path, int] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Opened) -> Modes:
        """Return the permissions of a file, of an index and its shards, or of a folder and all that is in it."""
        path = source.path
        if not source.is_folder:
            file = reduce(and_, map(_mode, (path, *(source.index.shards if source.index else ()))))
            return cls(file, file | (file & READ) >> 2)
        inside = [each for each in path.rglob("*") if each.exists()]
        folder = _mode(path)
        reached = folder & EXECUTE  # a file is no better to read than the folder around it is to enter
        file = reduce(and_, (_mode(each) for each in inside if each.is_file()), reached * 0o7)
        return cls(file, folder, {each.relative_to(path): _mode(each) for each in inside})

    def give(self, written: Path, *, ready: bool = True) -> None:
        """Give these permissions to a file, or to a folder and all that is in it.

        Args:
            written: what was written.
            ready: whether it is in its place; until then, its owner may read and write it in any case.
        """
        for each in (*(written.rglob("*") if written.is_dir() else ()), written):
            is_folder = each.is_dir()
            mode = self.named.get(each.relative_to(written), self.folder if is_folder else self.file)
            if not ready:
                mode |= OWNER_FOLDER if is_folder else OWNER_FILE
            if _mode(each) != mode:
                each.chmod(mode)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & ALL
