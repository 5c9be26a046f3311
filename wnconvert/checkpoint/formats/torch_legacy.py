"""The plain stream that `torch.save` wrote before PyTorch 1.6, and still writes when asked to."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats import _torch, _torch_pickle
from wnconvert.checkpoint.formats._output import Output

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

    def recognises(self, path: Path) -> bool:
        """Return whether the file begins with torch's magic number."""
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    def read(self, path: Path, *, trust: bool = False) -> Checkpoint:
        """Return the unpickled content."""
        return Checkpoint(_torch.load(path, trust=trust, mmap=False), self.name)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the content in the same old form, storage by storage."""
        with _torch.unpicklable():
            pickled, records = _torch_pickle.dump(checkpoint.content, legacy=True)
        with Output(path) as file:
            file.write(MAGIC)
            for header in (VERSION, SYSTEM):
                file.write(pickle.dumps(header, protocol=_torch_pickle.PROTOCOL))
            file.write(pickled)
            file.write(pickle.dumps([str(key) for key in range(len(records))], protocol=_torch_pickle.PROTOCOL))
            for record in records:
                file.write(record.count.to_bytes(8, sys.byteorder))
                for chunk in record.chunks():
                    file.write(chunk)
