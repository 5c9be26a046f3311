"""The bytes of a tensor as they lie in memory, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import DeferredTensor

#: small enough to stay in a processor's cache between what is done with a chunk.
CHUNK = 1 << 20


def chunks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a dense tensor in the order of its memory; a deferred one is computed for just as long."""
    if tensor.numel() == 0:
        return
    for value in tensor.blocks() if isinstance(tensor, DeferredTensor) else (tensor.detach().cpu(),):
        flat = value.as_strided((value.numel(),), (1,)).view(torch.uint8)
        view = memoryview(flat.numpy())  # type: ignore[arg-type]
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]


def storage_chunks(storage: torch.UntypedStorage) -> Iterator[memoryview]:
    """Yield the bytes of a whole storage."""
    return chunks(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage))
