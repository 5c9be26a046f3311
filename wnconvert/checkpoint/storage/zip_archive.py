"""Zip archives: records read without believing what the directory says, and written so that they can be mapped."""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import torch

from wnconvert.checkpoint.storage.chunks import mapped
from wnconvert.checkpoint.storage.limits import most_bytes
from wnconvert.checkpoint.storage.output import SMALL, Output
from wnconvert.errors import CheckpointError

#: what `torch.save` uses: any dtype can be mapped from there.
ALIGNMENT = 64
#: from this size on, records have headers for more than 4 GiB, well before they need to.
LARGE = 1 << 30
#: how records may be packed: others need memory without measure to be read.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: bytes of which a checksum is computed at once: the others run meanwhile.
CHUNK = 1 << 24
#: a header says in two bytes how long a name is.
LONGEST_NAME = (1 << 16) - 1
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    NotImplementedError,
    EOFError,
    OverflowError,
    RuntimeError,
    KeyError,
)


class Archive:
    """A zip archive that is read.

    Args:
        path: the file.

    Raises:
        CheckpointError: its directory cannot be read, or lies about the size of what is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        try:
            self._zip = zipfile.ZipFile(path)  # open for as long as the archive is used: its directory is read once
        except _ERRORS as error:
            raise self._damaged("its zip directory cannot be read") from error
        infos = self._zip.infolist()
        for info in infos:
            if not info.CRC:  # `torch.save` writes 0 where it is told to compute none, and `torch.load` checks none:
                del info.CRC  # https://github.com/pytorch/pytorch/pull/137735; of nothing, 0 is the checksum anyway
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise self._damaged("a record occurs twice")
        if strange := [info.filename for info in infos if info.compress_type not in METHODS]:
            raise CheckpointError(f"{str(path)!r}: its record {strange[0]!r} is packed as no checkpoint is; repack it")
        self._starts = self._find_starts(infos)
        inflated = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
        if inflated > most_bytes(self._size):
            raise CheckpointError(f"{str(path)!r} would inflate from {self._size} to {inflated} bytes; it is not read")

    @property
    def names(self) -> list[str]:
        """The names of the records."""
        return list(self._infos)

    @property
    def stored(self) -> bool:
        """Whether all records are stored as they are, so that they can be mapped."""
        return all(info.compress_type == zipfile.ZIP_STORED for info in self._infos.values())

    def find(self, record: str) -> str | None:
        """Return the name of a record with the folder that it is in, whatever that is called; or None."""
        return next((name for name in self._infos if name.partition("/")[2] == record), None)

    def folder_of(self, record: str) -> str:
        """Return the folder that a record is in.

        Raises:
            CheckpointError: there is no such record.
        """
        name = self.find(record)
        if name is None:
            raise self._damaged(f"its record {record!r} is missing")
        return name.removesuffix(f"/{record}")

    def data(self, name: str) -> bytes:
        """Return the bytes of a record.

        Raises:
            CheckpointError: there is no such record, or it is damaged.
        """
        try:
            return self._zip.read(name)
        except _ERRORS as error:
            raise self._damaged(f"its record {name!r} cannot be read") from error

    def storage(self, name: str) -> torch.UntypedStorage:
        """Return the bytes of a record, mapped from the file where they are stored as they are.

        Raises:
            CheckpointError: there is no such record, or it is damaged.
        """
        info = self._infos.get(name)
        if info is None:
            raise self._damaged(f"its record {name!r} is missing")
        if not info.file_size:
            return torch.empty(0).untyped_storage()
        if info.compress_type != zipfile.ZIP_STORED:
            return torch.frombuffer(bytearray(self.data(name)), dtype=torch.uint8).untyped_storage()
        start = self._starts[name]
        return self._whole[start : start + info.file_size]

    def check(self) -> None:
        """Check the checksums of all records that are stored as they are; of others, `data` checks them.

        They are those of the file, whatever became of its mapped tensors since.

        Raises:
            CheckpointError: one is not that of its record.
        """
        stored = {name: info for name, info in self._infos.items() if info.compress_type == zipfile.ZIP_STORED}
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            for name in sorted(stored, key=self._starts.__getitem__):
                info, start, crc = stored[name], self._starts[name], 0
                for place in range(start, start + info.file_size, CHUNK):
                    with memoryview(whole)[place : min(place + CHUNK, start + info.file_size)] as chunk:
                        crc = zlib.crc32(chunk, crc)
                if crc != getattr(info, "CRC", crc):
                    raise self._damaged(f"its record {name!r} does not have the checksum that it claims")

    @cached_property
    def _whole(self) -> Any:
        return mapped(self.path, self._size)

    def _find_starts(self, infos: list[zipfile.ZipInfo]) -> dict[str, int]:
        """Return where the data of each record begin.

        Raises:
            CheckpointError: one has not the place and size that the directory says, or overlaps another.
        """
        starts, reached = {}, 0
        if min((each.header_offset for each in infos), default=0):  # the directory is of an archive in this one
            raise self._damaged("it does not begin with its first record")
        with self.path.open("rb") as file:
            for info in sorted(infos, key=lambda info: info.header_offset):
                start = starts[info.filename] = self._start(info, file)
                stored = info.compress_type == zipfile.ZIP_STORED
                if (
                    info.header_offset < reached
                    or start + info.compress_size > self._size
                    or (stored and info.file_size != info.compress_size)
                ):
                    raise self._lie(info)
                reached = start + info.compress_size
        return starts

    def _start(self, info: zipfile.ZipInfo, file: IO[bytes]) -> int:
        """Return where the data of a record begin."""
        file.seek(info.header_offset)
        head = file.read(30)
        if len(head) < 30 or not head.startswith(b"PK\x03\x04"):
            raise self._damaged(f"its record {info.filename!r} has no header")
        flags, packed, size, name, extra = struct.unpack("<6xH10xIIHH", head)
        sizes_follow, large = flags & 8, 0xFFFFFFFF in (packed, size)
        if not sizes_follow and not large and (packed, size) != (info.compress_size, info.file_size):
            raise self._lie(info)
        return info.header_offset + 30 + name + extra

    def _lie(self, info: zipfile.ZipInfo) -> CheckpointError:
        return self._damaged(f"its record {info.filename!r} does not have the place and size that it claims")

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{str(self.path)!r} is cut short or damaged: {what}")


def writable(file: Output) -> zipfile.ZipFile:
    """Return an empty archive that is written to ``file``, its records as they are."""
    return zipfile.ZipFile(cast("IO[bytes]", file), "w", zipfile.ZIP_STORED)


def why_no_name(name: str) -> str | None:
    """Return why a record cannot have a name, or None."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is no text that UTF-8 can spell"
    if length > LONGEST_NAME:
        return f"is longer than a name in a zip archive can be ({LONGEST_NAME} bytes)"
    return "has a zero byte, at which the names of records end" if "\0" in name else None


def add(archive: zipfile.ZipFile, file: Output, name: str, data: Iterable[bytes | memoryview], size: int) -> None:
    """Write a record whose data begin at a multiple of `ALIGNMENT`.

    Args:
        archive: the archive, open for writing.
        file: the file that it writes to.
        name: name of the record.
        data: the bytes, in chunks.
        size: how many there are.
    """
    info = zipfile.ZipInfo(name)  # always of the same date, so that equal content gives equal files
    info.file_size = size
    large = size > LARGE
    start = file.tell() + 30 + len(name.encode()) + 20 * large  # the parts of a local header
    padding = -(start + 4) % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    if size < SMALL:
        _add_whole(archive, file, info, b"".join(data))
        return
    with archive.open(info, "w", force_zip64=large) as record:
        for chunk in data:
            record.write(chunk)


def _add_whole(archive: zipfile.ZipFile, file: Output, info: zipfile.ZipInfo, data: bytes) -> None:
    """Write a record in one piece, where `zipfile` would write it in three, and go back and forth between them."""
    info.header_offset, info.external_attr = file.tell(), 0o600 << 16  # as `zipfile` has it
    info.compress_size, info.CRC = info.file_size, zlib.crc32(data)
    file.write(info.FileHeader(zip64=False) + data)
    archive.filelist.append(info)
    archive.NameToInfo[info.filename] = info
    archive.start_dir = file.tell()
