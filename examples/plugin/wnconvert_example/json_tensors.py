"""A container that can be read: JSON that holds nested lists of numbers by name, ``{"tensors": {"a": [[1, 2]]}}``."""

from __future__ import annotations

import json

import torch

from wnconvert.checkpoint import Checkpoint, Format, Opened
from wnconvert.errors import CheckpointError


class JsonTensors(Format):
    """Tensors as text; there is no `write`, so conversions go into another container (``--format``)."""

    name = "json_tensors"
    title = "JSON tensors"

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file begins as such a file does."""
        return opened.start.startswith(b'{"tensors"')

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the tensors, in float32."""
        try:
            lists = json.loads(opened.path.read_text(encoding="utf-8"))["tensors"]
            content = {name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in lists.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{str(opened.path)!r} is damaged: {error}") from error
        return Checkpoint(content, self.name)
