"""What tensors claim to hold, and what is stored of it."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.checkpoint.storage.limits import most_bytes
from wnconvert.errors import CheckpointError


def check_claims(tensors: Iterable[tuple[str, Tensor]], path: Path, size: int = 0) -> None:
    """Check that tensors do not claim many more elements than are stored: a few bytes can be read as terabytes.

    Args:
        tensors: what each is called, and the tensor; those that are tied count once.
        path: where they are from.
        size: how many bytes are there; by default, as many as their storages have.

    Raises:
        CheckpointError: they do.
    """
    found = [(name, each) for name, each in tensors if each.layout is torch.strided and not each.is_meta]
    if sum(claimed(each) for _, each in found) <= most_bytes(size):
        return
    several = {storage_key(each): (name, each) for name, each in found}
    held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for _, each in several.values()}
    if sum(claimed(each) for _, each in several.values()) > most_bytes(max(size, sum(held.values()))):
        name, worst = max(several.values(), key=lambda item: claimed(item[1]) - item[1].untyped_storage().nbytes())
        stored = worst.untyped_storage().nbytes()
        raise CheckpointError(f"{str(path)!r}: {name} claims {claimed(worst)} bytes, but has only {stored}")


def claimed(tensor: Tensor) -> int:
    """Return how many bytes the elements of a tensor would take, were they all stored."""
    return prod(tensor.shape) * tensor.element_size()
