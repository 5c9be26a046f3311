"""The zip archive that `torch.save` writes since PyTorch 1.6 (``.pt``, ``.pth``, ``.ckpt``, ``.bin``, ``.th``).

Metadata live in a record of their own, ``wnconvert.json``, which `torch.load` does not look at: the content stays
exactly what it was, so that the file loads everywhere, with ``strict=True`` too.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.pickles import archive, machine, safety
from wnconvert.checkpoint.pickles.inert import as_state_dicts
from wnconvert.checkpoint.pickles.reloading import reload
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.checkpoint.storage.zip_archive import Archive
from wnconvert.errors import CheckpointError

PICKLE, METADATA = "data.pkl", "wnconvert.json"


@register
class TorchZipFormat(Format):
    """A torch zip archive."""

    name = "torch_zip"
    title = "torch zip"
    suffixes = (".pt", ".pth", ".ckpt", ".bin", ".th")

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file is a zip archive with ``data.pkl``, the record that torch writes first."""
        return opened.has(PICKLE)

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the unpickled content; tensors are mapped from the file where they are stored as they are."""
        archive = opened.archive
        content = safety.load(opened.path, trust=trust, mmap=archive.stored, inert=lambda: _inert(archive))
        return Checkpoint(content, self.name, _read_metadata(archive), checks=(archive.check,))

    def read_inert(self, opened: Opened) -> Checkpoint:
        """Return the content with state dicts in the place of modules, mapped in the same way."""
        archive = opened.archive
        content, notes = as_state_dicts(_inert(archive))
        return Checkpoint(content, self.name, _read_metadata(archive), notes=notes, checks=(archive.check,))

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return what `torch.load` reads."""
        if trust:
            return self.read(opened, trust=True)
        return Checkpoint(reload(opened.path, mmap=True), self.name, _read_metadata(opened.archive))

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the content as `torch.save` does, storage by storage, and the metadata beside it."""
        metadata = {METADATA: json.dumps(dict(checkpoint.metadata)).encode()} if checkpoint.metadata else {}
        with safety.unpicklable():
            archive.write(checkpoint.content, path, metadata)


def _inert(archive: Archive) -> Any:
    folder = archive.folder_of(PICKLE)
    storages = machine.mapped(archive, f"{folder}/data")
    return machine.load(archive.path, BytesIO(archive.data(f"{folder}/{PICKLE}")), storages)


def _read_metadata(archive: Archive) -> dict[str, str]:
    record = archive.find(METADATA)
    if record is None:
        return {}
    try:
        metadata = json.loads(archive.data(record))
        return {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{str(archive.path)!r} is damaged: its record {record!r} cannot be read") from error
