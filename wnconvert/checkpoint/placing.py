"""Where an output may go, and how it gets there: only regular files and new names are ever written.

What is a link, a device, a pipe or a socket is never replaced. A folder is replaced if it is empty, or if it is a
checkpoint of which nothing but weights would be lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wnconvert.checkpoint import sidecar
from wnconvert.checkpoint.format import find_format
from wnconvert.checkpoint.storage import paths, scratch
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError, OutputError


def check_output(
    output: str | os.PathLike[str], source: str | os.PathLike[str], *, force: bool = False, folder: bool = False
) -> None:
    """Check that a checkpoint may be written at ``output``, before any work is done.

    What killed runs left in its folder is removed, or put back, first.

    Args:
        output: the file or folder to write.
        source: what it is made from.
        force: whether a file that exists, or a checkpoint folder, may be replaced.
        folder: whether it will be a folder.

    Raises:
        OutputError: it may not.
    """
    output, source = paths.named(Path(output)), Path(source)
    if folder and paths.within(source, output):
        raise OutputError(f"output {str(output)!r} is the input itself; give another name")
    if output.parent.is_dir():
        scratch.clear(output.parent)
    check_name(output, source, force=force)
    check_place(output, force=force, folder=folder, like=source)
    if not folder:
        sidecar.check(output, source, force=force)


def check_name(output: Path, source: Path | None, *, force: bool) -> None:
    """Check of an output what shows before anybody knows whether it will be a file or a folder.

    Args:
        output: the file or folder to write.
        source: the file or folder that it is made from, if it is made from one.
        force: whether what exists may be replaced.

    Raises:
        OutputError: it may not be written, whatever it will be.
    """
    output, kind = paths.named(output), paths.kind(output)
    if source is not None and paths.same(output, source):
        raise OutputError(f"output {str(output)!r} is the input itself; give another name")
    if source is not None and source.is_dir() and paths.within(output, source):
        raise OutputError(f"output {str(output)!r} is inside of the input; give another place")
    if kind not in (None, paths.FILE, paths.FOLDER):
        raise OutputError(f"output {str(output)!r} is a {kind}, which is never replaced; give another name")
    if kind == paths.FILE and not force:
        raise OutputError(f"output {str(output)!r} exists; give --force to replace it, or another name with -o")
    if not output.parent.is_dir():
        raise OutputError(f"output {str(output)!r} is in no existing folder; create {str(output.parent)!r} first")


def check_place(output: Path, *, force: bool, folder: bool, like: Path) -> None:
    """Check that nothing is at ``output``, or something that may be replaced.

    Args:
        output: the file or folder to write.
        force: whether a file that exists, or a checkpoint folder, may be replaced.
        folder: whether it will be a folder.
        like: a folder that has the other files that the output will have, if it is one.

    Raises:
        OutputError: something else is there.
    """
    kind, wanted = paths.kind(output), paths.FOLDER if folder else paths.FILE
    if kind is None:
        return
    if kind in (paths.FILE, paths.FOLDER) and kind != wanted:
        raise OutputError(f"output {str(output)!r} is a {kind}; give a {wanted}")
    if kind != wanted:
        raise OutputError(f"output {str(output)!r} is a {kind}, which is never replaced; give another name")
    if not force:
        raise OutputError(f"output {str(output)!r} exists; give --force to replace it, or another name with -o")
    if folder:
        _check_folder(output, like)


def _check_folder(old: Path, like: Path) -> None:
    """Check that a folder is empty, or a checkpoint that holds nothing else that ``like`` does not have."""
    if next(old.iterdir(), None) is None:
        return
    opened = Opened(old)
    try:
        found = find_format(opened)
        own = set(found.files(opened)) if found and found.folder else None
    except (CheckpointError, OSError):
        own = None
    if own is None:
        raise OutputError(f"output {str(old)!r} is a directory that is no checkpoint; give another name")
    for path in _files(old):
        name = path.relative_to(old)
        if path not in own and not (like.is_dir() and os.path.lexists(like / name)):
            raise OutputError(f"output {str(old)!r} holds {str(name)!r}, which would be lost; give another name")


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def sync(path: Path) -> None:
    """Make a file, or a folder with all that is in it, durable."""
    for each in path.rglob("*") if path.is_dir() else ():
        sync_one(each)
    sync_one(path)


def sync_one(path: Path) -> None:
    """Make a file or folder durable; some file systems cannot do that for folders, which costs no correctness."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
