"""A file whose large pieces go to the disk while what comes next is computed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wnconvert.checkpoint.content.advance import advance

#: pieces of fewer bytes are written at once: handing them over would take longer.
SMALL = 1 << 16
#: so many pieces may wait.
AHEAD = 4
#: after so many bytes the disk is asked to catch up.
FLUSHED = 1 << 27


class Output:
    """What the writers of containers need of a file.

    Large pieces are written, in order, by a thread; all that needs them written waits for it. Another thread brings
    them to the disk, which the final ``fsync`` would have to do anyway. An error of either is raised by a later call.

    Args:
        path: the file; if it exists, it is empty.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", opener=_open)  # noqa: SIM115 (a path has no opener; closed on exit)
        self._writer, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._writing: deque[Future[Any]] = deque()
        self._flushing: Future[Any] | None = None
        self._written = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write ``data``, which must not change afterwards; return how many bytes they are."""
        size = len(data)
        advance(size)
        if size < SMALL:
            self.flush()
            return self._file.write(data)
        while len(self._writing) >= AHEAD:
            self._writing.popleft().result()
        self._writing.append(self._writer.submit(self._file.write, data))
        self._written += size
        if self._written >= FLUSHED:
            self._written = 0
            self._flush_to_disk()
        return size

    def flush(self) -> None:
        """Wait until all is written, though not until it is on the disk."""
        while self._writing:
            self._writing.popleft().result()

    def tell(self) -> int:
        """Return the position."""
        self.flush()
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position and return the new one."""
        self.flush()
        return self._file.seek(offset, whence)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self.flush()
                if self._flushing is not None:
                    self._flushing.result()
        finally:
            for pool in (self._writer, self._flusher):
                pool.shutdown(cancel_futures=True)
            self._file.close()

    def _flush_to_disk(self) -> None:
        if self._flushing is not None:
            if not self._flushing.done():
                return
            self._flushing.result()
        sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
        self._flushing = self._flusher.submit(sync, self._file.fileno())


def _open(path: str, flags: int) -> int:
    """Open a file without truncating it: ext4 brings one that was truncated to the disk before it closes it."""
    return os.open(path, flags & ~os.O_TRUNC, 0o666)
