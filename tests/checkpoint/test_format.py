"""What a container of somebody else needs: two methods, and to say what it is a special case of."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wnconvert.checkpoint import FORMATS, Checkpoint, Format, load
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


@pytest.fixture
def tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    list(FORMATS)
    monkeypatch.setitem(FORMATS._classes, "tagged", Tagged)
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(2, 2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/tag", b"")
    return path


def test_the_special_case_goes_first(tagged: Path) -> None:
    assert load(tagged).format == "tagged"


def test_what_can_only_be_read_refuses_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="tagged torch is read, but not written: it is somebody else's"):
        Tagged().write(Checkpoint({}, "tagged"), tmp_path / "file")
