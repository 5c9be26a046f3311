"""The bytes of a tensor as they lie in memory, a chunk at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import DeferredTensor
from wnconvert.checkpoint.storage.paths import spelled

#: small enough to stay in a processor's cache between what is done with a chunk.
CHUNK = 1 << 20
#: what has fewer bytes is copied, which takes a tenth of the time that a view takes.
COPIED = 1 << 12


def mapped(path: Path, size: int) -> Any:
    """Return a storage of the bytes of a file, which are read when they are used; changing it changes no file."""
    with spelled(path) as name:
        return torch.UntypedStorage.from_file(name, False, size)


def chunks(tensor: Tensor) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a dense tensor in the order of its memory; a deferred one is computed for just as long."""
    if tensor.numel() == 0:
        return
    for value in tensor.blocks() if isinstance(tensor, DeferredTensor) else (tensor.detach().cpu(),):
        if value.nbytes < COPIED and not (value.is_conj() or value.is_neg()):
            yield ctypes.string_at(value.data_ptr(), value.nbytes)
        else:
            yield from _views(value)


def storage_chunks(storage: torch.UntypedStorage) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a whole storage."""
    if storage.device.type == "cpu" and storage.nbytes() < COPIED:
        return iter((ctypes.string_at(storage.data_ptr(), storage.nbytes()),) if storage.nbytes() else ())
    return writable_chunks(storage)


def writable_chunks(storage: torch.UntypedStorage) -> Iterator[memoryview]:
    """Yield the memory of a whole storage."""
    return _views(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu())


def _views(tensor: Tensor) -> Iterator[memoryview]:
    view = memoryview(tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy())  # type: ignore[arg-type]
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]
