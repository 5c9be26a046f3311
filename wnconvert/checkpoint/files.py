"""Reading a checkpoint file of whatever kind, and writing one so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format
from wnconvert.errors import CheckpointError, OutputError, VerificationError, WnconvertError

#: how files begin that people mistake for checkpoints, and what to say of them.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"),
    (b"<", "a web page or another markup file; download the file itself"),
    (b"\x89HDF", "an HDF5 file; load it and save its weights with torch.save"),
    (b"\x93NUMPY", "a NumPy array; load it and save it with torch.save"),
    (b"PK", "a zip archive, but not one of torch.save, or cut short"),
    (b"\x80", "a plain pickle, not a torch checkpoint; load it and save its weights with torch.save"),
    (b"{", "a JSON file; give the checkpoint itself"),
)


def load(path: str | os.PathLike[str], *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint; its container is told by the content of the file.

    Args:
        path: the file.
        trust: run the code that the file names. Never do that with a file from somewhere else.

    Raises:
        UnsafePickleError: reading would run code, and ``trust`` is not given.
        CheckpointError: there is no such file, or it is not a checkpoint, or it is damaged.
    """
    path = Path(path)
    try:
        return recognise(path).read(path, trust=trust)
    except WnconvertError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {_reason(error)}") from error


def recognise(path: Path) -> Format:
    """Return the format of a file.

    Raises:
        CheckpointError: there is no such file, or it is of no known kind.
    """
    if path.is_dir():
        raise CheckpointError(f"{str(path)!r} is a directory; give a checkpoint file")
    if not path.exists():
        raise CheckpointError(f"no such file: {str(path)!r}")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is not a regular file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{str(path)!r} is empty")
    for name in FORMATS:
        known = FORMATS.get(name)()
        if known.recognises(path):
            return known
    with path.open("rb") as file:
        head = file.read(64)
    kinds = ", ".join(FORMATS.get(name).title for name in FORMATS)
    what = next((text for magic, text in _OTHERS if head.lstrip().startswith(magic) or head.startswith(magic)), None)
    raise CheckpointError(f"{str(path)!r} is " + (what or f"no checkpoint of a known kind ({kinds})"))


def check_output(output: Path, source: Path, *, force: bool = False) -> None:
    """Check that a file may be written at ``output``, before any work is done.

    Raises:
        OutputError: it may not.
    """
    if os.path.isdir(output):  # noqa: PTH112 (Path.is_dir raises where a name is too long)
        raise OutputError(f"output {str(output)!r} is a directory; give a file")
    if _same(output, source):
        raise OutputError(f"output {str(output)!r} is the input itself; give another name")
    if not output.parent.is_dir():
        raise OutputError(f"output {str(output)!r} is in no existing folder; create {str(output.parent)!r} first")
    if not force and os.path.lexists(output):
        raise OutputError(f"output {str(output)!r} exists; give --force to replace it, or another name with -o")


def save(
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str],
    force: bool = False,
    trust: bool = False,
    verify: Callable[[Checkpoint], None] = lambda written: None,
) -> None:
    """Write a checkpoint so that it appears whole or not at all.

    It goes to a temporary file beside ``output``, which is read again, verified, and only then renamed.

    Args:
        checkpoint: what to write, in the container that it names.
        output: the file to write.
        source: the file it was made from, which is never written over.
        force: replace an existing file.
        trust: let reading the written file run the code that it names.
        verify: called with what was read back; it raises to prevent the output.

    Raises:
        OutputError: the output exists, or is the source, or cannot be written.
        VerificationError: from ``verify``.
    """
    output, source = Path(output), Path(source)
    check_output(output, source, force=force)
    container = FORMATS.get(checkpoint.format)()
    try:
        with _temporary(output) as temporary:
            container.write(checkpoint, temporary)
            _sync(temporary)
            verify(_read_back(container, temporary, trust))
            if not force and os.path.lexists(output):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            temporary.replace(output)
            _sync(output.parent)
    except OSError as error:  # an OutputError of the container among them
        raise OutputError(f"cannot write {str(output)!r}: {_reason(error)}") from error


def _read_back(container: Format, temporary: Path, trust: bool) -> Checkpoint:
    try:
        return container.read(temporary, trust=trust)
    except CheckpointError as error:
        raise VerificationError(f"what was written cannot be read back, so it was not kept: {error}") from error


@contextlib.contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """Create an empty file beside ``output`` with the usual permissions; it is gone afterwards, come what may."""
    path = output.with_name(f".wnconvert-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make the file or folder durable; some file systems cannot do that for folders, which costs no correctness."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _same(output: Path, source: Path) -> bool:
    """Return whether two paths lead to one file, links of either kind included."""
    try:
        return output.samefile(source)
    except OSError:
        return output.resolve() == source.resolve()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
