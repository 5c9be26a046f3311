"""The folder in which a run makes its output, beside the place where it will appear; and those of killed runs.

    .wnconvert-MACHINE-1f0c9a7e.tmp/lock      locked by the run for as long as it lives
    .wnconvert-MACHINE-1f0c9a7e.tmp/new/NAME  what is written, and its record
    .wnconvert-MACHINE-1f0c9a7e.tmp/old/NAME  the folder that is replaced, until the new one has its place

Nobody but the user can look into it. The system gives a lock back when a process ends, however it ends: one that can be
taken is that of a run that is dead, whatever process has its number now. Other machines may not see the locks of this
one, nor this one theirs; so what is not of this machine, since it was started last, is only removed when it is old.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import stat
import time
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".wnconvert-", ".tmp"
LOCK, NEW, OLD = "lock", "new", "old"
#: seconds after which what another machine left untouched counts as left behind.
ABANDONED = 24 * 3600
#: so many names are tried.
TRIES = 100


class Scratch:
    """The folder of a run.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def new(self, name: str) -> Path:
        """Return where to write what will have that name."""
        return self.path / NEW / name

    def place(self, output: Path) -> None:
        """Give what was written its name. A folder that has it is gone only once the new one is there.

        Raises:
            OSError: that is not possible; what was there is there still.
        """
        new = self.new(output.name)
        if not (new.is_dir() and output.is_dir()):
            new.replace(output)
            placed.append(output)
            return
        old = self.path / OLD / output.name
        old.parent.mkdir()
        output.replace(old)
        try:
            new.replace(output)
        except OSError:
            old.replace(output)
            raise
        placed.append(output)


#: what runs of this process gave its name, in order, and the folders of those that have not ended.
placed: list[Path] = []
living: set[Path] = set()


def abandon() -> None:
    """Remove what runs of this process have begun, as if they had been killed: the process is about to end."""
    for path in list(living):
        _dispose(path)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Scratch]:
    """Give a run its folder in ``folder``; it is gone afterwards.

    Raises:
        OSError: there cannot be one.
    """
    path, lock = _make(folder)
    living.add(path)
    try:
        yield Scratch(path)
    finally:
        _dispose(path)
        living.discard(path)
        os.close(lock)


def clear(folder: Path) -> None:
    """Remove what killed runs left in a folder, and put back what they did not finish replacing.

    What others own, what a living run holds, and what cannot be removed stays.
    """
    for path in sorted(folder.glob(f"{PREFIX}*{SUFFIX}")):
        with contextlib.suppress(OSError):
            _clear(path)


def _clear(path: Path) -> None:
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode) or (hasattr(os, "geteuid") and facts.st_uid != os.geteuid()):
        return
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if _take(lock) and (path.name.startswith(f"{PREFIX}{_machine()}-") or _is_old(path)):
            _dispose(path)
    finally:
        os.close(lock)


def _make(folder: Path) -> tuple[Path, int]:
    """Return a new folder that nobody else looks into, and its lock, which is held until it is closed."""
    for _ in range(TRIES):
        path = folder / f"{PREFIX}{_machine()}-{os.urandom(4).hex()}{SUFFIX}"
        path.mkdir(0o700)
        with contextlib.suppress(FileNotFoundError):  # another run took it for one that was left: it was not locked yet
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _take(lock) is not False and os.path.samestat(os.fstat(lock), (path / LOCK).stat()):
                    (path / NEW).mkdir()
                    return path, lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def _take(lock: int) -> bool | None:
    """Take a lock; return whether that was possible, or None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@cache
def _machine() -> str:
    """Return what this machine is called until it is started again; all who share its locks call it so."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        name = platform.node().encode()
    return f"{zlib.crc32(name):08x}"


def _is_old(path: Path) -> bool:
    return max(each.lstat().st_mtime for each in (path, *path.rglob("*"))) < time.time() - ABANDONED


def _dispose(path: Path) -> None:
    """Remove the folder of a run that has ended; a folder that it did not replace gets its place back."""
    for old in list((path / OLD).iterdir()) if (path / OLD).is_dir() else ():
        place = path.parent / old.name
        if not os.path.lexists(path / NEW / old.name):
            continue  # the new one was put in its place
        if os.path.lexists(place):
            return  # somebody has put something there since; which of the two is wanted, only they know
        old.rename(place)
    for folder, _, _ in os.walk(path):  # where the input is read-only, so is what was made of it
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)  # noqa: PTH101 (os.walk gives texts)
    shutil.rmtree(path, ignore_errors=True)
