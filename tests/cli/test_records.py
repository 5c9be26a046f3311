"""What one process did, another repeats or undoes: records in every container, and what may befall them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from tests.checkpoint.formats.samples import model_folder
from tests.checkpoint.test_sidecar import HOSTILE, hostile
from tests.cli.conftest import report, run, run_process
from wnconvert.checkpoint import FORMATS, Checkpoint, bits_equal, difference, load, sidecar

WRITTEN = [name for name in FORMATS if FORMATS.get(name).not_written is None]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    norm = parametrizations.weight_norm
    return nn.Sequential(norm(nn.Conv1d(2, 3, 4), dim=2), nn.Linear(3, 3), norm(nn.Linear(3, 3), dim=None)).half()


def write(path: Path, name: str, content: dict[str, torch.Tensor]) -> None:
    """Write a file in a container, as others than wnconvert would: without a record."""
    if FORMATS.get(name).folder:
        path.mkdir()
    FORMATS.get(name)().write(Checkpoint(content, name), path)


@pytest.mark.parametrize("name", WRITTEN)
def test_another_process_repeats_and_undoes(name: str, folder: Path) -> None:
    source = dict(model().state_dict())
    write(folder / "in", name, source)
    for step in (
        ("fold", "in", "-o", "folded"),
        ("apply", "folded", "-o", "applied"),
        ("fold", "applied", "-o", "again"),
    ):
        outcome = run_process(*step, "-q", cwd=folder)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    other = ("-s", "weight_norm", "-O", "p=1", "--dim", "1", "-i", "2")
    for step in (("apply", "again", "-o", "other", *other), ("fold", "other", "-o", "back")):
        assert run(*step).code == 0
    for each in ("applied", "back"):
        assert run("verify", "folded", each).code == 0
    files = {each: load(folder / each) for each in ("in", "folded", "applied", "again", "back")}
    assert files["applied"].content.keys() == source.keys()
    fresh = model()
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    fresh.load_state_dict(dict(files["applied"].content), strict=True)
    for each in ("again", "back"):
        assert difference(files["folded"].content, files[each].content, ordered=False) is None
        assert dict(files[each].metadata) == dict(files["folded"].metadata)
    bare = [each for each in ("in", "folded", "applied") if sidecar.place(folder / each).exists()]
    assert bare == (["folded", "applied"] if sidecar.is_used_by(FORMATS.get(name)) else [])
    for each, shown in (("in", {}), ("folded", {"weight_norm": 2})):
        (summary,) = report(run("inspect", each, "--json"))["state_dicts"]
        assert summary["folded"] == shown
    assert "folded      2 weights from weight_norm, as recorded by wnconvert" in run("inspect", "folded").out


@pytest.mark.parametrize("name", WRITTEN)
def test_records_go_from_container_to_container(name: str, folder: Path) -> None:
    save_file(dict(model().state_dict()), folder / "in.safetensors", {"license": "mine", "format": "pt"})
    assert run("fold", "in.safetensors", "-o", "folded", "--format", name).code == 0
    assert run("apply", "folded", "-o", "applied.safetensors", "--format", "safetensors").code == 0
    assert load(folder / "applied.safetensors").metadata["license"] == "mine"
    assert load(folder / "applied.safetensors").content.keys() == model().state_dict().keys()


def test_a_folder_of_legacy_files_keeps_the_record_beside_its_weights(folder: Path) -> None:
    tensors = model_folder(folder / "net")
    (folder / "net" / "model.safetensors").unlink()
    torch.save(tensors, folder / "net" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert run("fold", "net").code == 0
    assert (folder / "net.folded" / "pytorch_model.bin.wnconvert.json").exists()
    assert run("apply", "net.folded", "-o", "applied").code == 0
    assert load(folder / "applied").content.keys() == tensors.keys()
    assert run("apply", folder / "net.folded" / "pytorch_model.bin", "-o", "alone.bin").code == 0
    assert load(folder / "alone.bin").content.keys() == tensors.keys()
    assert run("fold", "applied", "-o", "plain", "--no-record").code == 0
    assert {path.name for path in Path("plain").iterdir()} == {"config.json", "sub", "pytorch_model.bin"}


@pytest.fixture
def hooked(folder: Path) -> dict[str, torch.Tensor]:
    """A folded legacy file, x.pt, and what is in it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    torch.save(net.state_dict(), "net.pt", _use_new_zipfile_serialization=False)
    assert run("fold", "net.pt", "-o", "x.pt").code == 0
    return dict(load("x.pt").content)


def test_a_replay_needs_no_words_but_a_choice_against_the_record_does(hooked: dict[str, torch.Tensor]) -> None:
    outcome = run("apply", "x.pt", "-o", "y.pt")
    assert outcome.err == ""
    assert load("y.pt").content.keys() == {"0.weight_g", "0.weight_v", "0.bias", "1.weight", "1.bias"}
    outcome = run("apply", "x.pt", "-o", "z.pt", "--scheme", "weight_norm")
    assert outcome.err == ""
    assert "1.weight_g" in load("z.pt").content
    outcome = run("apply", "x.pt", "-i", "1", "--dry-run")
    assert (
        outcome.err
        == "note: the file records what was folded; choose no weights and no dim to have exactly that back\n"
    )


def test_what_is_folded_already_is_said(hooked: dict[str, torch.Tensor]) -> None:
    outcome = run("fold", "x.pt")
    assert outcome.code == 3
    assert outcome.error.endswith("; the file records 1 weight as folded already")


def test_a_folded_file_serves_as_reference(hooked: dict[str, torch.Tensor], folder: Path) -> None:
    plain = {key: torch.randn_like(tensor) for key, tensor in hooked.items()}
    torch.save({"ema": plain}, "plain.pt")
    outcome = run("apply", "plain.pt", "--like", "x.pt")
    assert (outcome.code, outcome.err) == (0, "")
    assert load("plain.like.pt").content["ema"].keys() == load("net.pt").content.keys()
    assert run("apply", "plain.pt", "--like", "x.pt", "-s", "weight_norm").code == 2


def test_a_stale_record_is_pointed_out(folder: Path) -> None:
    np.savez("in.npz", **{"a.weight": np.float32(np.random.default_rng(0).normal(size=(4, 3)))})
    assert run("apply", "in.npz", "-o", "x.npz", "-O", "p=1").code == 0
    parts = dict(np.load("x.npz"))
    np.savez("x.npz", **{**parts, "a.weight_g": parts["a.weight_g"] * 2})
    stale = "is of another file, or of this one before it was changed; it is not used"
    note = f"note: the record 'x.npz.wnconvert.json' {stale}"
    outcome = run("fold", "x.npz", "-o", "folded.npz")
    assert outcome.code == 0
    assert outcome.err.splitlines() == [note]
    expected = torch._weight_norm(*(torch.tensor(parts[f"a.weight_{part}"]) for part in "vg"), 0) * 2
    torch.testing.assert_close(load("folded.npz").content["a.weight"], expected)
    assert stale in " ".join(run("inspect", "x.npz").out.split())
    assert report(run("inspect", "x.npz", "--json"))["notes"] == [note.removeprefix("note: ")]
    assert run("verify", "x.npz", "x.npz").err.count(stale) == 2


def test_force_replaces_an_output_with_its_record(hooked: dict[str, torch.Tensor], folder: Path) -> None:
    torch.save({"other.weight": torch.randn(3, 3)}, "other.pt", _use_new_zipfile_serialization=False)
    assert "exists; give --force" in run("apply", "other.pt", "-o", "x.pt").error
    assert difference(hooked, dict(load("x.pt").content)) is None
    assert load("x.pt").notes == ()
    assert run("apply", "other.pt", "-o", "x.pt", "--force").code == 0
    assert list(json.loads(load("x.pt").metadata["wnconvert"])["weights"]) == ["other.weight"]
    assert run("fold", "x.pt", "-o", "back.pt").code == 0
    assert bits_equal(load("back.pt").content["other.weight"], load("other.pt").content["other.weight"])
    assert run("apply", "other.pt", "-o", "x.pt", "--force", "--format", "torch_zip").code == 0
    assert not Path("x.pt.wnconvert.json").exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_record_gives_one_clear_line(kind: str, hooked: dict[str, torch.Tensor]) -> None:
    hostile(Path("x.pt.wnconvert.json"), kind)
    for command in (["apply", "x.pt"], ["inspect", "x.pt"], ["verify", "x.pt", "net.pt"]):
        outcome = run(*command)
        assert outcome.code == 1
        assert "x.pt.wnconvert.json" in outcome.error
