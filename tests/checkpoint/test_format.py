"""What a container of somebody else needs: two methods, and to say what it is a special case of."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint import FORMATS, Checkpoint, Format
from wnconvert.checkpoint.format import find_format
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import OutputError


class Tagged(Format):
    """A torch file with a record of its own, which can only be read."""

    name = "tagged"
    title = "tagged torch"
    suffixes = (".tagged",)
    refines = "torch_zip"
    not_written = "it is somebody else's"

    def recognises(self, opened: Opened) -> bool:
        return opened.has("tag")

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        return Checkpoint({"weight": torch.ones(2, 2)}, self.name)


def test_the_special_case_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: FORMATS.get(name) for name in FORMATS}
    monkeypatch.setattr("wnconvert.checkpoint.format.FORMATS", {**known, "tagged": Tagged})
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2, 2)}, path)
    assert getattr(find_format(Opened(path)), "name", None) == "torch_zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/tag", b"")
    assert getattr(find_format(Opened(path)), "name", None) == "tagged"


def test_what_can_only_be_read_refuses_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="tagged torch is read, but not written: it is somebody else's"):
        Tagged().write(Checkpoint({}, "tagged"), tmp_path / "file")


def test_a_tag_for_other_readers_goes_only_where_they_read_it() -> None:
    plain, tagged = Checkpoint({}, "torch_zip"), Checkpoint({}, "torch_zip", {"format": "pt", "by": "me"})
    assert FORMATS.get("safetensors")().adopt(plain).metadata == {"format": "pt"}
    assert FORMATS.get("npz")().adopt(tagged).metadata == {"by": "me"}
    assert FORMATS.get("torch_zip")().adopt(tagged) is tagged
