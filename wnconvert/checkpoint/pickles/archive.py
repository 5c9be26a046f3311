"""Writing the zip archive of `torch.save`, one storage at a time, where `torch.save` itself needs all at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wnconvert.checkpoint.pickles import pickler
from wnconvert.checkpoint.storage import zip_archive
from wnconvert.checkpoint.storage.output import Output

#: the version of the archive that every torch since 1.6 reads.
VERSION = b"3\n"


def write(content: Any, path: Path, others: Mapping[str, bytes]) -> None:
    """Write an archive that `torch.load` reads.

    Args:
        content: what to pickle.
        path: the file.
        others: further records, by name; `torch.load` does not look at them.

    Raises:
        PicklingError: or whatever else unknown classes raise when they are pickled.
        OSError: there is no room.
    """
    pickled, storages = pickler.dump(content)
    with Output(path) as file, zip_archive.writable(file) as archive:

        def add(name: str, data: Iterable[bytes | memoryview], size: int) -> None:
            # the folder is called the same whatever the file is called
            zip_archive.add(archive, file, f"archive/{name}", data, size)

        add("data.pkl", [pickled], len(pickled))
        add("byteorder", [sys.byteorder.encode()], len(sys.byteorder))
        for key, storage in enumerate(storages):
            add(f"data/{key}", storage.chunks(), storage.nbytes)
        for name, data in others.items():
            add(name, [data], len(data))
        add("version", [VERSION], len(VERSION))
