from __future__ import annotations

import pytest
import torch

from wnconvert.checkpoint.content.deferred import defer
from wnconvert.checkpoint.storage import chunks as module
from wnconvert.checkpoint.storage.chunks import chunks, storage_chunks


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a contiguous tensor."""
    return tensor.view(torch.uint8).numpy().tobytes()


def test_bytes_come_in_the_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    pieces = list(chunks(tensor))
    assert [len(piece) for piece in pieces] == [100, 100, 100, 100, 80]
    assert b"".join(pieces) == bytes_of(tensor.permute(0, 2, 3, 1).contiguous()) != bytes_of(tensor.contiguous())


def test_a_parameter_that_is_deferred_is_computed() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    made = defer(lambda: weight.detach() * 2, weight, [weight])
    assert b"".join(chunks(made)) == bytes_of(weight.detach() * 2)


def test_a_storage_is_taken_as_a_whole() -> None:
    base = torch.arange(10.0)
    assert b"".join(storage_chunks(base[3:5].untyped_storage())) == bytes_of(base)
