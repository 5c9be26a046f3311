"""What is at a path, whether two are of one file, and files that others name: only such as lie in the same folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from wnconvert.errors import CheckpointError

#: where open files have names by their numbers.
DESCRIPTORS = Path("/dev/fd")
FILE, FOLDER = "file", "directory"
_KINDS = (
    (stat.S_ISREG, FILE),
    (stat.S_ISDIR, FOLDER),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
)


def real(path: Path) -> Path:
    """Return a path without links; one that leads around in circles, as far as it can be followed."""
    return Path(os.path.realpath(path))


def same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, links of either kind included."""
    try:
        return one.samefile(other)
    except OSError:
        return real(one) == real(other)


def named(path: Path) -> Path:
    """Return a path by the name that a folder has in the one around it: ``.`` and ``..`` have none of their own."""
    return path if path.name not in ("", "..") else real(path)


def kind(path: Path) -> str | None:
    """Return what is at a path, links not followed, or None where nothing is."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return None
    return next((name for is_such, name in _KINDS if is_such(mode)), "device")


def within(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder, or in a folder in it."""
    return real(folder) in real(path).parents


def inside(folder: Path, name: str) -> Path:
    """Return a file of a folder by the name that another file gives it.

    Links may lead elsewhere in the folder, or, in the cache of the Hugging Face Hub, to its folder of blobs.

    Raises:
        CheckpointError: it is not in the folder, or does not exist.
    """
    if "\\" in name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name:
        raise CheckpointError(f"{str(folder)!r} names the file {name!r}, which is not inside of it")
    try:
        place, home = (folder / name).resolve(), folder.resolve()
        there = place.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, or a loop of links
        raise CheckpointError(f"{str(folder)!r} names the file {name!r}, which cannot be looked at") from error
    allowed = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    if not any(place.is_relative_to(each) for each in allowed):
        raise CheckpointError(f"{str(folder / name)!r} is a link that leads out of the folder; it is not followed")
    if not there and os.path.lexists(place) and not place.is_dir():
        raise CheckpointError(f"{str(folder / name)!r} is not a regular file")
    if not there:
        raise CheckpointError(f"no such file: {str(folder / name)!r}, which an index names")
    return folder / name


@contextlib.contextmanager
def spelled(path: Path) -> Iterator[str]:
    """Give the name of a file that is there, as libraries take it: not all take names that are no UTF-8.

    Raises:
        CheckpointError: it has such a name, and the system has no other for it.
    """
    name = os.fspath(path)
    if name == name.encode(errors="replace").decode():
        yield name
        return
    if not DESCRIPTORS.is_dir():
        raise CheckpointError(f"the name {name!r} is no UTF-8, which cannot be read here; give the file another name")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield str(DESCRIPTORS / str(descriptor))
    finally:
        os.close(descriptor)


def read_small(path: Path, longest: int) -> bytes:
    """Return the bytes of a regular file; a FIFO or a device, which may have no end, is never opened.

    Raises:
        CheckpointError: it is no regular file, or longer than ``longest``.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(f"{str(path)!r} is not a regular file")
    with path.open("rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise CheckpointError(f"{str(path)!r} is too long for what it is: it has {path.stat().st_size} bytes")
    return data
