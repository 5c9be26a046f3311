from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.pickles.programs import read_inert
from wnconvert.checkpoint import FORMATS, Checkpoint
from wnconvert.errors import CheckpointError, OutputError


def test_legacy_files_that_lie_about_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(4, 4), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) - 70, len(data) // 2, 60, 20):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_inert(path)
    where = data.index((16).to_bytes(8, "little"))
    path.write_bytes(data[:where] + (1 << 40).to_bytes(8, "little") + data[where + 8 :])
    with pytest.raises(CheckpointError, match="its tensors are not all there"):
        read_inert(path)


def test_dtypes_that_came_later_are_refused(tmp_path: Path) -> None:
    content = {"a": torch.ones(2).to(torch.float8_e4m3fn)}
    with pytest.raises(OutputError, match="a dtype that came after such files"):
        FORMATS.get("torch_legacy")().write(Checkpoint(content, "torch_legacy"), tmp_path / "a.pt")
