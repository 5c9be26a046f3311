"""The zip archive that `torch.save` writes since PyTorch 1.6 (``.pt``, ``.pth``, ``.ckpt``, ``.bin``, ``.th``).

Metadata live in a record of their own, ``wnconvert.json``, which `torch.load` does not look at: the content stays
exactly what it was, so that the file loads everywhere, with ``strict=True`` too.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats import _torch
from wnconvert.errors import CheckpointError

RECORD = "wnconvert.json"


@register
class TorchZipFormat(Format):
    """A torch zip archive."""

    name = "torch_zip"
    title = "torch zip"
    suffixes = (".pt", ".pth", ".ckpt", ".bin", ".th")

    def recognises(self, path: Path) -> bool:
        """Return whether the file is a zip archive with ``data.pkl`` in it, or the beginning of one."""
        with path.open("rb") as file:
            head = file.read(256)
        if not head.startswith(b"PK\x03\x04"):
            return False
        try:
            names = _names(path)
        except CheckpointError:
            return b"/data.pkl" in head  # torch writes this record first
        return any(name.endswith("/data.pkl") for name in names)

    def read(self, path: Path, *, trust: bool = False) -> Checkpoint:
        """Return the unpickled content; tensors are mapped from the file where they are stored as they are."""
        names = _names(path)
        if any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                f"{str(path)!r} is a TorchScript archive; save its weights and convert those: "
                "torch.save(torch.jit.load(path).state_dict(), ...)"
            )
        with zipfile.ZipFile(path) as archive:
            stored = all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())
        content = _torch.load(path, trust=trust, mmap=stored)
        return Checkpoint(content, self.name, _read_metadata(path, names))

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the content with `torch.save`, and the metadata beside it."""
        _torch.save(checkpoint.content, path, zipped=True)
        if not checkpoint.metadata:
            return
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"archive/{RECORD}", json.dumps(dict(checkpoint.metadata)))


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError, OverflowError) as error:
        raise CheckpointError(f"{str(path)!r} is cut short or damaged: its zip directory cannot be read") from error


def _read_metadata(path: Path, names: list[str]) -> dict[str, str]:
    record = next((name for name in names if name.endswith(f"/{RECORD}")), None)
    if record is None:
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(record))
        return {str(key): str(value) for key, value in metadata.items()}
    except (zipfile.BadZipFile, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: its record {record!r} cannot be read") from error
