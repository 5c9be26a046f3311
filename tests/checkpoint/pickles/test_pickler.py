from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import nn

from wnconvert.checkpoint import FORMATS, Checkpoint, difference
from wnconvert.checkpoint.content.tree import storage_key


def everything() -> dict[str, object]:
    base = torch.arange(100.0)
    return {
        "view": base[:10],
        "transposed view": base[5:50].view(5, 9).t(),
        "tied": base[:10],
        "expanded": torch.ones(1).expand(5),
        "parameter": nn.Parameter(torch.ones(2, 2), requires_grad=False),
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3),
        "meta": torch.ones(2, device="meta"),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.half, torch.bfloat16, torch.bool, torch.int8)},
    }


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.filterwarnings("ignore:.*torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("name", ["torch_zip", "torch_legacy"])
def test_torch_reads_what_is_written_as_what_torch_writes(tmp_path: Path, name: str) -> None:
    content, path, theirs = everything(), tmp_path / "ours", io.BytesIO()
    FORMATS.get(name)().write(Checkpoint(content, name), path)
    torch.save(content, theirs, _use_new_zipfile_serialization=name == "torch_zip")
    for mmap in (False, True) if name == "torch_zip" else (False,):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert difference(content, found) is None
        assert storage_key(found["view"]) == storage_key(found["tied"])
    assert path.stat().st_size <= len(theirs.getvalue())
