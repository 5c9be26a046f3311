"""The plain stream that `torch.save` wrote before PyTorch 1.6, and still writes when asked to."""

from __future__ import annotations

from pathlib import Path

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats import _torch

#: torch's magic number, pickled with protocol 2: how every such file begins.
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


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
        """Write the content with `torch.save`, in the same old form."""
        _torch.save(checkpoint.content, path, zipped=False)
