"""Where a converted checkpoint goes unless the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from wnconvert.checkpoint import FORMATS
from wnconvert.errors import OptionError, UnknownNameError
from wnconvert_cli.destination import Destination
from wnconvert_cli.groups import Writing


@pytest.mark.parametrize(
    ("name", "container", "target", "output"),
    [
        ("model.pt", "torch_zip", None, "model.folded.pt"),
        ("model.v1.2", "torch_zip", None, "model.v1.2.folded"),
        ("model.bin", "torch_zip", "torch_legacy", "model.folded.bin"),
        ("model.pt", "torch_zip", "safetensors", "model.folded.safetensors"),
        ("model.safetensors.index.json", "safetensors_sharded", None, "model.folded"),
        ("model.safetensors.index.json", "safetensors_sharded", "npz", "model.folded.npz"),
        ("folder.d", "model_folder", None, "folder.d.folded"),
    ],
)
def test_the_default_output_is_beside_the_input(
    tmp_path: Path, name: str, container: str, target: str | None, output: str
) -> None:
    if container == "model_folder":
        (tmp_path / name).mkdir()
    destination = Destination(tmp_path / name, FORMATS.get(container)(), Writing(format=target))
    assert destination.beside("folded") == tmp_path / output


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="TorchScript is read, but not written"):
        Destination(tmp_path / "model.pt", FORMATS.get("torchscript")(), Writing())
    with pytest.raises(UnknownNameError, match="did you mean 'torch_zip'"):
        Destination(tmp_path / "model.pt", FORMATS.get("torch_zip")(), Writing(format="torch_zp"))


def test_an_output_that_is_named_like_another_container_is_refused(tmp_path: Path) -> None:
    destination = Destination(tmp_path / "model.pt", FORMATS.get("torch_zip")(), Writing())
    with pytest.raises(OptionError, match="named like safetensors, but it will be torch zip"):
        destination.check(tmp_path / "out.safetensors")
