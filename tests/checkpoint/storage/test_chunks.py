from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint.content.deferred import defer
from wnconvert.checkpoint.storage import chunks as module
from wnconvert.checkpoint.storage.chunks import chunks, mapped, storage_chunks, writable_chunks


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a contiguous tensor."""
    return tensor.view(torch.uint8).numpy().tobytes()


def test_bytes_come_in_the_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(module, "COPIED", 0)
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


@pytest.mark.parametrize("copied", [0, 1 << 12])
def test_what_is_small_has_the_same_bytes(copied: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPIED", copied)
    whole = torch.randn(6, 5)
    transposed, rows, none = whole.t(), whole[2:4], torch.empty(0, 3)
    assert b"".join(chunks(transposed)) == bytes_of(whole)
    assert b"".join(chunks(rows)) == bytes_of(whole)[40:80]
    assert list(chunks(none)) == list(storage_chunks(none.untyped_storage())) == []
    assert b"".join(storage_chunks(rows.untyped_storage())) == bytes_of(whole)


def test_what_is_read_into_the_memory_of_a_storage_is_there() -> None:
    tensor = torch.zeros(3)
    for chunk in writable_chunks(tensor.untyped_storage()):
        chunk[:] = bytes_of(torch.arange(3.0))
    torch.testing.assert_close(tensor, torch.arange(3.0), rtol=0, atol=0)


def test_a_file_is_mapped_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(8)))
    storage = mapped(path, 8)
    torch.empty(0, dtype=torch.uint8).set_(storage).zero_()
    assert (storage.nbytes(), path.read_bytes()) == (8, bytes(range(8)))
