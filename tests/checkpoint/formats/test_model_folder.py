"""Folders of a model, with all that lies beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.formats.samples import model_folder
from tests.checkpoint.layouts import twins
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


@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
def test_weights_that_are_named_like_an_index_are_refused(folder: Path, binary: bool) -> None:
    """The libraries would read them as JSON, in the input and in the output alike."""
    model_folder(folder / "net", binary=binary)
    weights = "pytorch_model.bin" if binary else "model.safetensors"
    (folder / "net" / weights).rename(folder / "net" / f"{weights}.index.json")
    for command in ("apply", "fold", "inspect"):
        outcome = run(command, "net")
        assert outcome.code == 1
        assert f"has the name of an index, but is {'torch zip' if binary else 'safetensors'}" in outcome.error
        assert outcome.error.endswith(f"; rename it to {weights!r}")
    assert [path.name for path in folder.iterdir()] == ["net"]
    (folder / "net" / f"{weights}.index.json").rename(folder / "net" / weights)
    assert run("fold", "net").code == 0


def bigvgan(path: Path, api: str = "hook") -> twins.BigVgan:
    """A folder as NVIDIA publishes it: the generator, and in one file its discriminators and all optimizers."""
    torch.manual_seed(0)
    generator, mpd = twins.BigVgan(twins.Api(api)), twins.Discriminators(twins.Api(api))
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-4) for model in (generator, mpd)]
    for model, optimizer, channels in zip((generator, mpd), optimizers, (8, 1), strict=True):
        model(twins.signal(channels)).square().mean().backward()
        optimizer.step()
    path.mkdir()
    (path / "config.json").write_text('{"upsample_rates": [2]}')
    (path / "README.md").write_text("# BigVGAN")
    torch.save({"generator": generator.state_dict()}, path / "bigvgan_generator.pt")
    states = {"optim_g": optimizers[0].state_dict(), "optim_d": optimizers[1].state_dict()}
    torch.save({"mpd": mpd.state_dict(), **states, "steps": 1}, path / "bigvgan_discriminator_optimizer.pt")
    return generator


def test_the_folder_of_a_model_that_saves_itself_is_a_model_folder(folder: Path) -> None:
    generator = bigvgan(folder / "net")
    plain = twins.BigVgan(twins.Api("plain"))
    assert run("inspect", "net").code == 0
    outcome = run("fold", "net")
    assert outcome.code == 0, outcome.err
    assert "optimizer: 'bigvgan_discriminator_optimizer.pt' is left out" in outcome.out
    assert {path.name for path in Path("net.folded").iterdir()} == {"README.md", "bigvgan_generator.pt", "config.json"}
    plain.load_state_dict(torch.load("net.folded/bigvgan_generator.pt")["generator"], strict=True)
    assert torch.equal(plain.eval()(twins.signal()), generator.eval()(twins.signal()))
    assert run("apply", "net.folded", "-o", "again").code == 0
    assert run("apply", "net.folded", "--like", "net", "-o", "like").code == 0
    assert run("migrate", "net", "--to", "parametrization", "-o", "new").code == 0
    for name, api in (("again", "hook"), ("like", "hook"), ("new", "parametrization")):
        assert run("verify", "net", name).code == 0
        other = twins.BigVgan(twins.Api(api))
        other.load_state_dict(torch.load(f"{name}/bigvgan_generator.pt")["generator"], strict=True)
        assert torch.equal(other.eval()(twins.signal()), generator.eval()(twins.signal()))
    assert run("fold", "net/bigvgan_discriminator_optimizer.pt", "--only", "mpd").code == 0
    assert (folder / "net" / "bigvgan_discriminator_optimizer.folded.pt").is_file()


def test_an_older_output_of_a_model_that_saved_itself_is_replaced_by_force(folder: Path) -> None:
    bigvgan(folder / "net")
    assert run("fold", "net").code == 0
    assert run("fold", "net", "--force").code == 0
    Path("net.folded/precious").touch()
    assert "holds 'precious', which would be lost" in run("fold", "net", "--force", "-q").error


def test_of_several_checkpoints_in_a_folder_one_is_to_be_chosen(folder: Path) -> None:
    bigvgan(folder / "net")
    for name in ("G_2.pth", "D_2.pth", "training_args.bin", "rng_state_0.pth"):
        torch.save({"model": {"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(2, 2)}}, f"net/{name}")
    outcome = run("fold", "net")
    assert outcome.code == 1
    names = "D_2.pth, G_2.pth, bigvgan_generator.pt"
    assert outcome.error == f"'net' holds several checkpoints ({names}); give one of these files instead"
    for name in ("G_2.pth", "D_2.pth"):
        Path("net", name).unlink()
    assert run("fold", "net").code == 0
    assert Path("net.folded/training_args.bin").is_file()
    Path("net/config.json").unlink()  # nothing says that it is a model's any more
    assert "'net' is a folder without weights of torch by a name that is known" in run("fold", "net").error


@pytest.mark.oracle
def test_what_the_mixin_of_the_hub_saves_is_a_model_folder(folder: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Net(nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[misc, name-defined]
        def __init__(self, size: int, normed: bool = True) -> None:
            super().__init__()
            self.layer = nn.Linear(size, size)
            if normed:
                nn.utils.weight_norm(self.layer)

    model = Net(3)
    model.save_pretrained("net")
    assert run("fold", "net").code == 0
    plain = Net.from_pretrained("net.folded", normed=False, strict=True)
    assert {path.name for path in Path("net.folded").iterdir()} == {path.name for path in Path("net").iterdir()}
    x = torch.randn(2, 3)
    assert torch.equal(plain.layer(x), model.layer(x))


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
