"""Files of what was recorded, which appear whole or not at all."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from wnconvert.checkpoint import placing
from wnconvert.checkpoint.storage.scratch import scratch
from wnconvert.errors import OutputError


def write(path: str | PathLike[str], content: bytes) -> None:
    """Write a file, in place of one that is there.

    Raises:
        OutputError: that is not possible; what was there is there still.
    """
    output = Path(path)
    placing.check_name(output, None, force=True)
    placing.check_place(output, force=True, folder=False, like=output)
    try:
        with scratch(output.parent) as room:
            room.new(output.name).write_bytes(content)
            room.place(output)
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {(error.strerror or str(error)).lower()}") from error
