"""The plain stream that `torch.save` wrote before PyTorch 1.6, and still writes when asked to."""

from __future__ import annotations

import pickle
import sys
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.pickles import machine, pickler, safety
from wnconvert.checkpoint.pickles.inert import as_state_dicts
from wnconvert.checkpoint.pickles.reloading import reload
from wnconvert.checkpoint.storage.chunks import writable_chunks
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.checkpoint.storage.output import Output
from wnconvert.errors import CheckpointError

#: torch's magic number, pickled with protocol 2: how every such file begins.
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

#: what follows: the version of the protocol, and sizes that readers ignore.
VERSION = 1001
SYSTEM = {
    "protocol_version": VERSION,
    "little_endian": sys.byteorder == "little",
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


@register
class TorchLegacyFormat(Format):
    """A torch file from before the zip archive. It is written back as what it was, and has no place for metadata."""

    name = "torch_legacy"
    title = "torch (before 1.6)"
    suffixes = (".pt", ".pth", ".ckpt", ".bin", ".th")
    annotated = False

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file begins with torch's magic number."""
        return opened.start.startswith(MAGIC)

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the unpickled content."""
        path = opened.path
        return Checkpoint(safety.load(path, trust=trust, mmap=False, inert=lambda: _inert(path)), self.name)

    def read_inert(self, opened: Opened) -> Checkpoint:
        """Return the content with state dicts in the place of modules."""
        content, notes = as_state_dicts(_inert(opened.path))
        return Checkpoint(content, self.name, notes=notes)

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return what `torch.load` reads."""
        if trust:
            return self.read(opened, trust=True)
        return Checkpoint(reload(opened.path, mmap=False), self.name)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the content in the same old form, storage by storage."""
        with safety.unpicklable():
            pickled, storages = pickler.dump(checkpoint.content, legacy=True)
        with Output(path) as file:
            file.write(MAGIC)
            for header in (VERSION, SYSTEM):
                file.write(pickle.dumps(header, protocol=pickler.PROTOCOL))
            file.write(pickled)
            file.write(pickle.dumps([str(key) for key in range(len(storages))], protocol=pickler.PROTOCOL))
            for storage in storages:
                file.write(storage.elements.to_bytes(8, sys.byteorder))
                for chunk in storage.chunks():
                    file.write(chunk)


def _inert(path: Path) -> Any:
    storages = _Storages(path)
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        version, system = (machine.load(path, file) for _ in range(2))
        if version != VERSION or not isinstance(system, dict):
            raise storages.damaged()
        if system.get("little_endian") is not SYSTEM["little_endian"]:
            raise CheckpointError(f"{str(path)!r} is of a machine with another byte order; load it with torch")
        content = machine.load(path, file, storages.get)
        storages.fill(machine.load(path, file), file)
    return content


class _Storages:
    """The storages of a file: made when the pickle refers to them, filled from what follows it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._room = path.stat().st_size
        self._made: dict[Any, tuple[torch.UntypedStorage, int]] = {}

    def get(self, key: Any, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        """Return the storage of a key, made once."""
        if key not in self._made:
            size = count * dtype.itemsize
            self._room -= size
            if size < 0 or self._room < 0:
                raise self.damaged()
            self._made[key] = torch.empty(size, dtype=torch.uint8).untyped_storage(), count
        return self._made[key][0]

    def fill(self, keys: Any, file: BufferedReader) -> None:
        """Read the bytes of all storages, in the order of the keys."""
        texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not texts or len(keys) != len(self._made) or self._made.keys() != set(keys):
            raise self.damaged()
        for key in keys:
            storage, count = self._made[key]
            if int.from_bytes(file.read(8), sys.byteorder) != count:
                raise self.damaged()
            for chunk in writable_chunks(storage):
                if file.readinto(chunk) != len(chunk):
                    raise self.damaged()

    def damaged(self) -> CheckpointError:
        """Return the error that says so."""
        return CheckpointError(f"{str(self._path)!r} is cut short or damaged: its tensors are not all there")
