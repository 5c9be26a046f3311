"""A shell completes the names of weights from the file on the line."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.conftest import NO_TORCH, run_fresh
from wnconvert_cli.completing import modules_and_weights, names_in, of_files

STATE = {"conv.weight_g": torch.ones(2, 1), "conv.weight_v": torch.ones(2, 2), "head.weight": torch.ones(2, 2)}


@pytest.fixture
def files(folder: Path) -> Path:
    save_file({**STATE, "head.bias": torch.ones(2)}, "a.safetensors")
    torch.save({"model": STATE, "epoch": 3}, "a.pt")
    return folder


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_names_come_from_the_file_without_torch(files: Path, name: str) -> None:
    words = f"wnconvert fold {name} --exclude co"
    setup = f"import os\nos.environ.update(_WNCONVERT_COMPLETE='complete_bash', COMP_CWORD='4', COMP_WORDS={words!r})\n"
    done = run_fresh(cwd=files, code=NO_TORCH + setup)
    assert done.out.split() == ["conv", "conv.weight"], done.err


def test_both_containers_give_the_same(files: Path) -> None:
    wanted = {"conv", "conv.weight", "head", "head.weight"}
    assert modules_and_weights(names_in(Path("a.safetensors"))) == wanted
    assert modules_and_weights(names_in(Path("a.pt"))) == wanted


def test_what_cannot_be_read_completes_nothing(files: Path) -> None:
    whole = Path("a.pt").read_bytes()
    Path("cut.pt").write_bytes(whole[: len(whole) // 2])
    Path("cut.safetensors").write_bytes(Path("a.safetensors").read_bytes()[:60])
    Path("text").write_text("x")
    Path("empty").touch()
    os.mkfifo("pipe")
    for name in ("cut.pt", "cut.safetensors", "text", "empty", "pipe", "gone", "."):
        assert names_in(Path(name)) == set(), name
    damaged = bytearray(whole)
    at = whole.index(b"conv.weight_g")
    damaged[at - 5] = 0xFF  # the length of a text
    Path("damaged.pt").write_bytes(damaged)
    assert names_in(Path("damaged.pt")) == set()


def test_damaged_and_lying_zips_complete_nothing(files: Path) -> None:
    for name, size in (("deflated.pt", None), ("lying.pt", 1 << 20)):
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("m/data.pkl", os.urandom(64) * 40)
        data = bytearray(Path(name).read_bytes())
        at = data.index(b"data.pkl") + len("data.pkl")
        if size is None:
            data[at : at + 8] = b"\xff" * 8
        else:  # in the directory, which is what is believed
            field = data.index(b"PK\x01\x02") + 24
            data[field : field + 4] = size.to_bytes(4, "little")
        Path(name).write_bytes(data)
        assert names_in(Path(name)) == set(), name


def test_no_name_reaches_the_terminal_that_is_no_text(files: Path) -> None:
    names = ["a.weight", "b\nc.weight", "\x1b[31md.weight", "\ud800e.weight"]
    torch.save({name: torch.ones(1) for name in names}, "odd.pt")
    assert "b\nc.weight" in names_in(Path("odd.pt"))
    context = SimpleNamespace(params={"files": ["odd.pt"]}, args=[])
    assert of_files(context, "") == ["a", "a.weight"]  # type: ignore[arg-type]
