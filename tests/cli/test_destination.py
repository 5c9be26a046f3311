"""Where a converted checkpoint goes unless the user says so, and in which container."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoint.formats.samples import model_folder
from tests.cli.conftest import check_refused, run
from wnconvert.checkpoint import FORMATS, load
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


@pytest.mark.parametrize(
    ("container", "output", "target"),
    [
        ("torch_zip", "out.safetensors", "safetensors"),
        ("torch_zip", "out.SFT", "safetensors"),
        ("safetensors", "out.npz", "npz"),
        ("safetensors", "out.pt", "torch_zip"),  # and not the older container of these names
        ("torch_legacy", "out.pt", "torch_legacy"),
        ("torch_export", "out.pth", "torch_zip"),
        ("model_folder", "out.safetensors", "safetensors"),
        ("torch_zip", "out", "torch_zip"),
        ("torch_zip", "out.v1.2", "torch_zip"),
        ("safetensors_sharded", "folder", "safetensors_sharded"),
    ],
)
def test_the_name_of_the_output_chooses_its_container(tmp_path: Path, container: str, output: str, target: str) -> None:
    source = FORMATS.get(container)()
    destination = Destination(tmp_path / "in", source, Writing(output=tmp_path / output))
    assert destination.target.name == target
    destination.check(tmp_path / output)


@pytest.mark.parametrize("output", ["out.pt2", "out.ts", "out.torchscript"])
def test_a_name_of_what_is_only_read_is_refused(tmp_path: Path, output: str) -> None:
    with pytest.raises(OptionError, match=r"is named like .*, which is read, but not written: .*--format torch_zip"):
        Destination(tmp_path / "model.pt", FORMATS.get("torch_zip")(), Writing(output=tmp_path / output))


def test_weights_of_a_script_are_not_written_under_the_name_of_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="TorchScript is read, but not written"):
        Destination(tmp_path / "model.pt", FORMATS.get("torchscript")(), Writing(output=tmp_path / "out.pt"))


@pytest.mark.parametrize(("format", "output"), [("torch_zip", "out.safetensors"), ("model_folder", "out.pt")])
def test_a_name_that_contradicts_the_chosen_container_is_refused(tmp_path: Path, format: str, output: str) -> None:
    destination = Destination(tmp_path / "model.pt", FORMATS.get("torch_zip")(), Writing(format=format))
    with pytest.raises(OptionError, match="is named like"):
        destination.check(tmp_path / output)


@pytest.mark.parametrize("output", ["out.onnx", "out.GGUF", "out.h5", "out.json"])
def test_the_name_of_a_file_of_other_software_is_refused(folder: Path, plain: Path, output: str) -> None:
    outcome = run("apply", plain, "-o", output)
    assert outcome.code == 2
    assert f"output {output!r} is named like a" in outcome.error
    assert outcome.error.endswith(", but it will be torch zip")
    assert not Path(output).exists()


@pytest.mark.parametrize("given", [".", "./", "../net", "../net/", "sub/..", "{}", "{}/", "{}/sub/.."])
def test_a_folder_gets_its_output_beside_it_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    model_folder(tmp_path / "net")
    monkeypatch.chdir(tmp_path / "net")
    outcome = run("fold", given.format(tmp_path / "net"))
    assert outcome.code == 0, outcome.err
    assert load(tmp_path / "net.folded").content.keys() >= {"up.weight"}
    assert {path.name for path in tmp_path.iterdir()} == {"net", "net.folded"}
    assert "is the input itself" in run("fold", ".", "-o", "../net", "--force").error
    assert "is the input itself" in run("fold", ".", "-o", ".", "--force").error
    assert "is the input itself" in run("fold", "sub/..", "-o", ".", "--force").error


def test_the_folder_around_all_has_no_place_beside_it() -> None:
    with pytest.raises(OptionError, match="give one with -o"):
        Destination(Path("/"), FORMATS.get("model_folder")(), Writing()).beside("folded")


def test_the_suffix_of_the_output_is_heard_on_the_command_line(folder: Path, plain: Path) -> None:
    torch.save(torch.load(plain)["model"], "flat.pt")
    assert run("apply", "flat.pt", "-o", "out.safetensors").code == 0
    assert load("out.safetensors").format == "safetensors"
    assert run("fold", "out.safetensors", "-o", "back.pt").code == 0
    assert load("back.pt").format == "torch_zip"
    outcome = run("apply", plain, "-o", "nested.safetensors")
    assert (outcome.code, "safetensors cannot hold this content: 'model' is a nested dict" in outcome.error) == (
        1,
        True,
    )
    check_refused(run("apply", "flat.pt", "-o", "x.pt2"), 2, "named like torch.export", folder, *names(folder))
    outcome = run("apply", "flat.pt", "-o", "x.npz", "--format", "safetensors")
    check_refused(outcome, 2, "named like NumPy npz, but it will be safetensors", folder, *names(folder))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
