"""Reading a checkpoint file of whatever kind, and writing one so that it appears whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from wnconvert.checkpoint import foreign, placing, sidecar
from wnconvert.checkpoint.content.advance import Progress, told
from wnconvert.checkpoint.content.difference import difference
from wnconvert.checkpoint.content.tree import walk
from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format, find_format
from wnconvert.checkpoint.storage import paths
from wnconvert.checkpoint.storage.claims import check_claims
from wnconvert.checkpoint.storage.modes import Modes
from wnconvert.checkpoint.storage.opened import Opened, require_file
from wnconvert.checkpoint.storage.scratch import scratch
from wnconvert.errors import CheckpointError, OptionError, OutputError, VerificationError, WnconvertError


def load(
    path: str | os.PathLike[str] | Opened,
    *,
    trust: bool = False,
    modules: Literal["module", "state_dict", "program"] = "module",
) -> Checkpoint:
    """Read a checkpoint; its container is told by the content of the file.

    Args:
        path: the file, or what `recognise` was asked about, which is not opened again.
        trust: run the code that the file names. Never do that with a file from somewhere else.
        modules: what becomes of whole modules: ``"module"``, built by their code, which needs ``trust``;
            ``"state_dict"``, read as their state dicts, which needs no code and runs none; or ``"program"``, which is
            the first, and for an archive of torch.export the program that it holds, where else its weights are read.

    Raises:
        OptionError: both are wanted.
        UnsafePickleError: reading would run code, and ``trust`` is not given.
        CheckpointError: there is no such file, or it is not a checkpoint, or it is damaged.
    """
    opened = _opened(path)
    if modules not in ("module", "state_dict", "program"):
        raise OptionError(f"modules is {modules!r}; it must be 'module', 'state_dict' or 'program'")
    inert = modules == "state_dict"
    if inert and trust:
        raise OptionError(
            "modules are built by their code (--trust) or read without it (--state-dict); give one of the two"
        )
    try:
        container = recognise(opened)
        read = container.read_program if modules == "program" else container.read
        checkpoint = container.read_inert(opened) if inert else read(opened, trust=trust)
        checkpoint = sidecar.complete(checkpoint, opened.path)
        named = ((repr(found.fqn(name)), t) for found in walk(checkpoint.content) for name, t in found.tensors.items())
        check_claims(named, opened.path, 0 if opened.is_folder else opened.path.stat().st_size)
        return checkpoint
    except WnconvertError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {str(opened.path)!r}: {_reason(error)}") from error


def recognise(path: str | os.PathLike[str] | Opened) -> Format:
    """Return the format of a file.

    Raises:
        CheckpointError: there is no such file, or it is of no known kind.
    """
    opened = _opened(path)
    path = opened.path
    require_file(path)
    if what := foreign.describe(opened, early=True):
        raise CheckpointError(f"{str(path)!r} is {what}")
    if (found := find_format(opened)) is not None:
        return found
    kinds = ", ".join(FORMATS.get(name).title for name in FORMATS)
    raise CheckpointError(f"{str(path)!r} is {foreign.describe(opened) or f'no checkpoint of a known kind ({kinds})'}")


def _opened(path: str | os.PathLike[str] | Opened) -> Opened:
    return path if isinstance(path, Opened) else Opened(path)


def save(
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str],
    force: bool = False,
    trust: bool = False,
    verify: Callable[[Checkpoint], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint so that it appears whole or not at all.

    It goes to a temporary folder beside ``output``, into which nobody else can look. There it is read again, verified,
    and only then renamed; who may read ``source`` may read it, and nobody else. Metadata that the container cannot hold
    go beside it, see `wnconvert.checkpoint.sidecar`.

    Args:
        checkpoint: what to write, in the container that it names.
        output: the file to write.
        source: the file it was made from, which is never written over.
        force: replace an existing file or checkpoint folder, see `wnconvert.checkpoint.placing`.
        trust: let reading the written file run the code that it names.
        verify: called with what was read back; it raises to prevent the output. By default that must be ``checkpoint``,
            bit for bit.
        progress: called with the bytes of tensors that are written or verified, and how many there are in all.

    Raises:
        CheckpointError: a file that ``checkpoint`` was mapped from is damaged.
        OutputError: the output exists, or is the source, or cannot be written.
        VerificationError: what was read back is not what it must be.
    """
    output, source, verify = paths.named(Path(output)), Path(source), verify or partial(verify_content, checkpoint)
    container = FORMATS.get(checkpoint.format)()
    placing.check_output(output, source, force=force, folder=container.folder)
    try:
        with scratch(output.parent) as room, told(progress, 2 * _bytes(checkpoint) if progress else 0):
            temporary = room.new(output.name)
            temporary.mkdir() if container.folder else temporary.touch(exist_ok=False)
            with ThreadPoolExecutor(2) as other:
                intact = [other.submit(check) for check in checkpoint.checks]
                _write(container, checkpoint, temporary, output)
                modes = Modes.of(Opened(source)) if source.exists() else None
                if modes:
                    modes.give(temporary, ready=False)
                if used := sidecar.is_used_by(type(container)):
                    sidecar.write(temporary, checkpoint.metadata)
                synced = other.submit(placing.sync, temporary)
                verify(_read_back(container, temporary, trust))
                for each in (*intact, synced):
                    each.result()
            placing.check_place(output, force=force, folder=container.folder, like=temporary)
            placing.sync_one(room.path)
            if container.folder:
                room.place(output)
            else:
                sidecar.put(temporary, output, lambda: room.place(output), used=used)
            if modes:
                modes.give(output)
            placing.sync_one(output.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {_reason(error)}") from error


def _bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of all tensors in a checkpoint, tied ones as often as they are named."""
    found = (tensor for each in walk(checkpoint.content) for tensor in each.tensors.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in found)


def _write(container: Format, checkpoint: Checkpoint, temporary: Path, output: Path) -> None:
    try:
        container.write(checkpoint, temporary)
    except OutputError as error:
        raise OutputError(f"cannot write {str(output)!r}: {_reason(error)}") from error


def _read_back(container: Format, temporary: Path, trust: bool) -> Checkpoint:
    try:
        return sidecar.complete(container.read_back(Opened(temporary), trust=trust), temporary)
    except CheckpointError as error:
        raise VerificationError(f"what was written cannot be read back, so it was not kept: {error}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.EFAULT:  # what was written was mapped, and is not there any more
        return "an input was cut short while it was read"
    return error.strerror.lower() if error.strerror else str(error)


def verify_content(expected: Checkpoint, written: Checkpoint) -> None:
    """Check that a file holds ``expected``, bit for bit and entry by entry; one tensor at a time is computed.

    Raises:
        VerificationError: it does not.
    """
    verify_held(expected, written, bits=True)


def verify_held(expected: Checkpoint, written: Checkpoint, *, bits: bool) -> None:
    """Check that a file holds ``expected``, entry by entry.

    Args:
        expected: what was to be written.
        written: what was read back.
        bits: whether the values of tensors that are deferred in ``expected`` count.

    Raises:
        VerificationError: it does not.
    """
    container = FORMATS.get(expected.format)
    found = difference(
        expected.content, written.content, ordered=container.ordered, kinds=not container.flat, bits=bits
    )
    if dict(expected.metadata) != dict(written.metadata):
        found = found or "the metadata differ"
    if found:
        raise VerificationError(f"the written file is not what was to be written: {found}; nothing was kept")
