"""safetensors, https://github.com/huggingface/safetensors: a JSON header and raw tensors; no code, no nesting.

The library orders the entries itself, by dtype and then by name, so the order of the keys carries no meaning.
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats._torch import disk_error, first_line
from wnconvert.errors import CheckpointError, OutputError

#: the library refuses longer headers.
LONGEST_HEADER = 100_000_000


@register
class SafetensorsFormat(Format):
    """A single safetensors file."""

    name = "safetensors"
    title = "safetensors"
    suffixes = (".safetensors", ".sft")
    ordered = False

    def recognises(self, path: Path) -> bool:
        """Return whether the file begins with the length of a header and an opening brace."""
        with path.open("rb") as file:
            head = file.read(9)
        return head[8:] == b"{" and 0 < int.from_bytes(head[:8], "little") <= LONGEST_HEADER

    def read(self, path: Path, *, trust: bool = False) -> Checkpoint:
        """Return the tensors by name; ``trust`` changes nothing, for there is no code in such a file."""
        try:
            with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
                content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
                metadata = dict(file.metadata() or {})
        except OSError:
            raise
        except Exception as error:  # a damaged file can make it raise anything at all
            raise CheckpointError(f"{str(path)!r} is cut short or damaged: {first_line(error)}") from error
        return Checkpoint(content, self.name, metadata)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the tensors and the metadata."""
        try:
            save_file(checkpoint.content, os.fspath(path), dict(checkpoint.metadata) or None)
        except SafetensorError as error:
            raise disk_error(error) from error
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise OutputError(f"safetensors cannot hold this content: {first_line(error)}") from error
