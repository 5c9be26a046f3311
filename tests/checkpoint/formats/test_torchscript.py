from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.pickles.programs import doubling, torch_file
from wnconvert.checkpoint import difference, load
from wnconvert.errors import CheckpointError


def test_torchscript_that_needs_its_code_has_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"archive/{name}", b"")
    with pytest.raises(CheckpointError, match=r"torch\.jit\.load"):
        load(path)


def test_torchscript_of_shared_and_traced_modules_is_read(tmp_path: Path) -> None:
    inner = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": nn.Sequential(inner, nn.ReLU()), "b": inner})["a"]
    with pytest.warns((DeprecationWarning, FutureWarning), match=r"torch\.jit"):
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), tmp_path / "traced.pt")
    assert difference(dict(model.state_dict()), dict(load(tmp_path / "traced.pt").content)) is None


def test_torchscript_archives_compute_no_such_hashes_either(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", doubling(b"K\x01s."))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript archive that cannot be read without its code"):
        load(path)
