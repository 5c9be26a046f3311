"""What was written, read by torch.load, and what that refuses."""

from __future__ import annotations

import pickle
import sys
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoint.conftest import training_checkpoint
from wnconvert.checkpoint import Checkpoint, difference, save
from wnconvert.checkpoint.pickles import archive, reloading
from wnconvert.checkpoint.pickles.reloading import reload
from wnconvert.errors import CheckpointError, OutputError


def test_it_is_what_torch_load_gives(tmp_path: Path) -> None:
    content = training_checkpoint()
    torch.save(content, tmp_path / "new.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, mmap in (("new.pt", True), ("new.pt", False), ("old.pt", False)):
        assert difference(content, reload(tmp_path / name, mmap=mmap)) is None


def test_what_is_harmless_is_read_and_nothing_of_the_process_is_changed(tmp_path: Path) -> None:
    content = {"args": Namespace(lr=0.1), "array": np.ones(2), "path": Path("a"), "kept": OrderedDict(a=torch.ones(1))}
    torch.save(content, tmp_path / "file.pt")
    before = torch.serialization.get_safe_globals()
    found = reload(tmp_path / "file.pt", mmap=True)
    assert (found["args"], found["path"]) == (content["args"], content["path"])
    assert torch.serialization.get_safe_globals() == before


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it runs",)


@pytest.mark.parametrize("new", [True, False])
def test_no_code_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], new: bool) -> None:
    torch.save({"a": Hostile()}, tmp_path / "file.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"torch.load refuses it: it names builtins.print"):
        reload(tmp_path / "file.pt", mmap=new)
    assert capsys.readouterr().out == ""


def test_no_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x80\x02cantigravity\nfly\n.")
    with (tmp_path / "file").open("rb") as file, pytest.raises(pickle.UnpicklingError, match=r"antigravity\.fly"):
        reloading._load(file)
    assert "antigravity" not in sys.modules


def test_what_torch_load_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.pt"
    archive.write({"a": torch.ones(3)}, path, {})
    assert torch.equal(reload(path, mmap=True)["a"], torch.ones(3))
    path.write_bytes(path.read_bytes().replace(b"archive/data/0", b"archive/data/1"))
    with pytest.raises(CheckpointError, match=r"torch\.load refuses it"):
        reload(path, mmap=True)


def test_a_storage_that_is_no_whole_number_of_elements_is_not_written(source: Path, tmp_path: Path) -> None:
    storage = torch.arange(17, dtype=torch.uint8).untyped_storage()
    tensor = torch.empty(0).set_(storage, 0, (4,))
    with pytest.raises(OutputError, match="17 bytes, which are no whole number of elements"):
        save(Checkpoint({"a": tensor}, "torch_zip"), tmp_path / "out.pt", source=source)
    assert {path.name for path in tmp_path.iterdir()} == {source.name}
