"""Folders of a model, with all that lies beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoint.formats.samples import model_folder
from tests.cli.conftest import run
from wnconvert.checkpoint import bits_equal, difference, load


@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_model_folder_is_converted_with_all_that_is_in_it(folder: Path, shards: int, binary: bool) -> None:
    tensors = model_folder(folder / "net", shards=shards, binary=binary)
    outcome = run("fold", "net")
    assert outcome.code == 0, outcome.err
    files = {str(path.relative_to("net.folded")): path for path in Path("net.folded").rglob("*") if path.is_file()}
    assert files["config.json"].read_text() == '{"model_type": "x"}'
    assert files["sub/vocab.txt"].read_bytes() == b"\x00words"
    content = load("net.folded").content
    expected = torch._weight_norm(tensors["up.weight_v"], tensors["up.weight_g"], 0)
    assert bits_equal(content["up.weight"], expected)
    assert content.keys() == tensors.keys() - {"up.weight_g", "up.weight_v"} | {"up.weight"}
    if shards == 2:
        index = json.loads(next(path for name, path in files.items() if name.endswith("index.json")).read_text())
        assert json.loads(index["metadata"].pop("wnconvert"))["folded"] == {"up.weight": 0}
        assert index["metadata"] == {"total_size": 320, "total_parameters": 88}
        assert {path.name for path in files.values() if "-of-" in path.name} == set(index["weight_map"].values())
    assert run("apply", "net", "-o", "applied", "-i", "layer.*").code == 0
    assert run("fold", "applied", "-o", "back", "-i", "layer.*").code == 0
    assert difference(dict(load("net").content), dict(load("back").content), ordered=False) is None


def test_optimizer_files_of_a_folder_are_left_out_and_named(folder: Path) -> None:
    model_folder(folder / "net")
    torch.save({"state": {}}, "net/optimizer.pt")
    outcome = run("fold", "net")
    assert "optimizer: 'optimizer.pt' is left out" in outcome.out
    assert not Path("net.folded/optimizer.pt").exists()


def test_a_folder_is_replaced_only_by_force_and_never_the_input(folder: Path) -> None:
    model_folder(folder / "net")
    model_folder(Path("net.folded"), shards=2, binary=True)
    assert "exists; give --force" in run("fold", "net").error
    assert run("fold", "net", "--force").code == 0
    assert not list(Path("net.folded").glob("pytorch_model*"))
    assert (load("net.folded").content.keys() - load("net").content.keys()) == {"up.weight"}
    assert "is the input itself" in run("fold", "net", "-o", "net", "--force").error
    assert "inside of the input" in run("fold", "net", "-o", "net/sub2").error
    assert {path.name for path in folder.iterdir()} == {"net", "net.folded"}


@pytest.mark.parametrize("name", ["precious", "sub/precious", ".git/config", "optimizer.pt"])
def test_a_folder_is_not_replaced_where_more_than_weights_would_be_lost(folder: Path, name: str) -> None:
    model_folder(folder / "net")
    model_folder(folder / "net.folded")
    precious = folder / "net.folded" / name
    precious.parent.mkdir(exist_ok=True)
    precious.touch()
    for there in (False, True):  # it would not even be copied from the input
        if there and precious.parent.name in (".git", "net.folded"):
            (folder / "net" / name).parent.mkdir(exist_ok=True)
            (folder / "net" / name).touch()
        if name == "precious" and there:
            continue
        outcome = run("fold", "net", "--force", "-q")
        assert outcome.code == 1
        assert f"holds '{name}', which would be lost" in outcome.error
        assert precious.exists()
    assert {path.name for path in folder.iterdir()} == {"net", "net.folded"}


def test_a_folder_that_is_no_checkpoint_is_never_replaced(folder: Path) -> None:
    model_folder(folder / "net")
    (folder / "home").mkdir()
    (folder / "home" / "letter.txt").touch()
    assert "is a directory that is no checkpoint" in run("fold", "net", "-o", "home", "--force").error
    assert [path.name for path in (folder / "home").iterdir()] == ["letter.txt"]
    (folder / "home" / "letter.txt").unlink()
    assert run("fold", "net", "-o", "home", "--force").code == 0
    assert load("home").content.keys() == load("net").content.keys() - {"up.weight_g", "up.weight_v"} | {"up.weight"}


def test_a_folder_with_weights_twice_is_refused(folder: Path) -> None:
    tensors = model_folder(folder / "net")
    torch.save(tensors, "net/pytorch_model.bin")
    assert "holds weights several times (model.safetensors, pytorch_model.bin)" in run("fold", "net").error
    assert run("fold", "net/model.safetensors").code == 0


def test_a_link_out_of_a_folder_is_not_followed(folder: Path) -> None:
    model_folder(folder / "net")
    (folder / "secret").write_text("secret")
    Path("net/link").symlink_to("../secret")
    outcome = run("fold", "net")
    assert outcome.code == 1
    assert "leads out of the folder" in outcome.error
    assert not Path("net.folded").exists()


def test_the_cache_of_the_hub_is_read(folder: Path) -> None:
    model_folder(folder / "plain")
    snapshot = folder / "models--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "models--x" / "blobs").mkdir()
    for number, path in enumerate(path for path in Path("plain").iterdir() if path.is_file()):
        path.rename(folder / "models--x" / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert run("fold", snapshot, "-o", "out").code == 0
    assert Path("out/config.json").read_text() == '{"model_type": "x"}'
