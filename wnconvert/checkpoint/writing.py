"""Files that are no checkpoints (figures, tables, pages), which appear whole or not at all."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from wnconvert.checkpoint import placing
from wnconvert.checkpoint.storage.scratch import scratch
from wnconvert.errors import OutputError


def check(path: str | PathLike[str], source: Path | None = None, *, force: bool = True) -> None:
    """Check that a file may be written, before any work is done.

    Args:
        path: the file.
        source: the file or folder that it tells of, if it tells of one.
        force: whether one that exists may be replaced; never ``source``.

    Raises:
        OutputError: it may not.
    """
    output = Path(path)
    placing.check_name(output, source, force=force)
    placing.check_place(output, force=force, folder=False, like=output)


def write(path: str | PathLike[str], content: bytes, *, force: bool = True) -> None:
    """Write a file; by default in place of one that is there.

    Raises:
        OutputError: that is not possible; what was there is there still.
    """
    check(path, force=force)
    output = Path(path)
    try:
        with scratch(output.parent) as room:
            room.new(output.name).write_bytes(content)
            room.place(output)
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {(error.strerror or str(error)).lower()}") from error
