"""The record beside a file whose container has no place for metadata: ``model.npz.wnconvert.json``.

It says which file it is of, by size and fingerprint, so that a record is never applied to another file, nor to what
somebody made of its own. While a file is replaced, the record holds what belongs to the old one and to the new one:
killed at any moment, the file that is there has its own.

    {"version": 1, "records": [{"size": 5120, "sha256": "...", "metadata": {"wnconvert": "..."}}]}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format
from wnconvert.checkpoint.storage import paths
from wnconvert.errors import CheckpointError, OutputError

SUFFIX = ".wnconvert.json"
VERSION = 1
#: longer ones are not read.
LONGEST = 100_000_000
#: what a fingerprint covers of a large file: its ends (keys, and the checksums of a zip archive), and a sample between.
HEAD, TAIL, BLOCK, BLOCKS = 1 << 16, 1 << 18, 1 << 12, 128


@dataclass(frozen=True)
class Record:
    """The metadata of one file.

    Attributes:
        size: bytes of the file.
        sha256: its fingerprint.
        metadata: what its container cannot hold.
    """

    size: int
    sha256: str
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, file: Path, metadata: Mapping[str, str]) -> Record:
        """Return the record of a file."""
        return cls(file.stat().st_size, _fingerprint(file), dict(metadata))

    def fits(self, file: Path) -> bool:
        """Return whether this is the record of ``file`` as it is now."""
        return self.size == file.stat().st_size and self.sha256 == _fingerprint(file)


def place(file: Path) -> Path:
    """Return where the record of a file is."""
    return file.with_name(file.name + SUFFIX)


def is_used_by(container: type[Format]) -> bool:
    """Return whether the files of a container have records beside them."""
    return not (container.annotated or container.folder or container.not_written)


def complete(checkpoint: Checkpoint, file: Path) -> Checkpoint:
    """Return a checkpoint that was read from ``file`` with the metadata beside it, or with a note that they are stale.

    Raises:
        CheckpointError: there is a record, but it cannot be read.
    """
    if not is_used_by(FORMATS.get(checkpoint.format)):
        return checkpoint
    places = [place(file), *([place(file.resolve())] if file.is_symlink() else [])]
    found = next((path for path in places if os.path.lexists(path)), None)
    if found is None:
        return checkpoint
    for record in _read(found):
        if record.fits(file):
            return replace(checkpoint, metadata={**checkpoint.metadata, **record.metadata})
    note = f"the record {str(found)!r} is of another file, or of this one before it was changed; it is not used"
    return replace(checkpoint, notes=(*checkpoint.notes, note))


def write(file: Path, metadata: Mapping[str, str]) -> None:
    """Write the record of a file beside it, for those who may read the file; no metadata, no record.

    Raises:
        OSError: there is no room.
    """
    if metadata:
        _write(place(file), [Record.of(file, metadata)], file)


def check(output: Path, source: Path, *, force: bool) -> None:
    """Check that there may be a record of ``output``, made from ``source``.

    Raises:
        OutputError: there may not.
    """
    own = place(output)
    if paths.same(own, source):
        raise OutputError(f"output {str(output)!r} would have its record in the input; give another name")
    if paths.same(output, place(source)):
        raise OutputError(f"output {str(output)!r} is the record of the input; give another name")
    kind = paths.kind(own)
    if kind not in (None, paths.FILE):
        raise OutputError(f"{str(own)!r} is a {kind}, and in the way of the record; give another name")
    if not force and kind and not _holds_records(own):
        raise OutputError(f"{str(own)!r}, where the record goes, exists; give --force to replace it, or another name")


def put(temporary: Path, output: Path, rename: Callable[[], None], *, used: bool) -> None:
    """Call ``rename``, which gives a temporary file its name, and see to it that its record goes with it.

    The record comes first, together with that of the file that is replaced, which goes last.

    Args:
        temporary: the file, and its record beside it.
        output: its name.
        rename: gives it that name.
        used: whether the container uses records; else only one that is left of another container is removed.
    """
    own, new = place(output), place(temporary)
    fresh = _read(new) if new.exists() else []
    there = os.path.lexists(own)
    somebodys = there and not _holds_records(own)
    if not (fresh or there) or (somebodys and not used):
        rename()
        return
    before = _records_of(output)
    _write(new, [*before, *(fresh or [Record.of(temporary, {})])], temporary)
    new.replace(own)
    try:
        rename()
    except BaseException:
        _settle(before if temporary.exists() else fresh, new, own, output)
        raise
    if before or not fresh:
        _settle(fresh, new, own, output)


def _records_of(file: Path) -> list[Record]:
    """Return the records of a file, if there is one; that it has no metadata is a record, too."""
    own = place(file)
    if not file.is_file():
        return []
    if not os.path.lexists(own):
        return [Record.of(file, {})]
    return [record for record in _read(own) if record.fits(file)] if _holds_records(own) else []


def _settle(records: Sequence[Record], new: Path, own: Path, output: Path) -> None:
    if not records:
        own.unlink()
        return
    _write(new, records, output)
    new.replace(own)


def _holds_records(path: Path) -> bool:
    try:
        _read(path)
    except (CheckpointError, OSError):
        return False
    return True


def _read(path: Path) -> list[Record]:
    if not path.is_file():
        raise _unreadable(path, "it is not a regular file")
    paths.inside(path.parent, path.name)
    if path.stat().st_size > LONGEST:
        raise _unreadable(path, "it is too long")
    try:
        data = json.loads(paths.read_small(path, LONGEST))
        if data["version"] != VERSION:
            raise _unreadable(path, f"it has version {data['version']!r}; this wnconvert reads {VERSION}")
        return [_record(item) for item in data["records"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unreadable(path, "it is damaged") from error


def _record(item: Mapping[str, object]) -> Record:
    size, sha256, metadata = item["size"], item["sha256"], item["metadata"]
    if not (isinstance(size, int) and isinstance(sha256, str) and isinstance(metadata, dict)):
        raise TypeError("no record")
    if not all(isinstance(text, str) for text in metadata.values()):
        raise TypeError("metadata are texts")
    return Record(size, sha256, metadata)


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"the record {str(path)!r} cannot be read: {reason}; delete it to go without it")


def _write(path: Path, records: Sequence[Record], file: Path) -> None:
    data = {"version": VERSION, "records": [asdict(record) for record in records]}
    with path.open("wb") as opened:
        shutil.copymode(file, path)
        opened.write(json.dumps(data, indent=1).encode() + b"\n")
        opened.flush()
        os.fsync(opened.fileno())


def _fingerprint(file: Path) -> str:
    """Return a hash of the ends of a file and of places between; of all of it, if it is small."""
    size = file.stat().st_size
    spans = [(0, size)]
    if size > HEAD + TAIL + BLOCK * BLOCKS:
        step = (size - HEAD - TAIL - BLOCK) // (BLOCKS - 1)
        spans = [(0, HEAD), *((HEAD + step * index, BLOCK) for index in range(BLOCKS)), (size - TAIL, TAIL)]
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        for start, length in spans:
            opened.seek(start)
            digest.update(opened.read(length))
    return digest.hexdigest()
