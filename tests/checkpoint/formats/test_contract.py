"""What every container must do; runs over all that are registered."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

from tests.checkpoint.conftest import CASES, state_dict, training_checkpoint
from wnconvert.checkpoint import FORMATS, Checkpoint, Format, difference, load, recognise
from wnconvert.checkpoint.formats.torch_legacy import MAGIC
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError, OutputError, UnsafePickleError, WnconvertError


class Model(nn.Module):
    """Holds what a state dict may hold, and can be scripted and exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean(2))


def write_foreign(name: str, path: Path) -> object:
    """Write a file with the library that its kind is from; return what it must be read as."""
    torch.manual_seed(0)
    model = Model().eval()
    if name == "torchscript":
        with pytest.warns((DeprecationWarning, FutureWarning), match=r"torch\.jit"):
            torch.jit.save(torch.jit.script(model), path)
        return OrderedDict(model.state_dict())
    if name == "torch_package":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)  # torch's own exporter uses it
            with torch.package.PackageExporter(path) as exporter:
                exporter.extern("**")
                exporter.save_pickle("model", "model.pkl", model, dependencies=False)
        return OrderedDict(model.state_dict())
    torch.export.save(torch.export.export(model, (torch.ones(1, 2, 8),)), path)
    names = dict(model.named_parameters())
    return OrderedDict((key, names.get(key, value)) for key, value in model.state_dict().items())


@pytest.fixture(params=list(FORMATS))
def container(request: pytest.FixtureRequest) -> Format:
    return FORMATS.get(request.param)()


@pytest.fixture
def sample(container: Format, tmp_path: Path) -> tuple[Path, object]:
    """A file of each kind without a telling suffix, and what it holds."""
    path = tmp_path / "sample"
    if container.not_written:
        return path, write_as(container, path)
    content = content_for(container)
    if container.folder:
        path.mkdir()
    container.write(Checkpoint(content, container.name, metadata_for(container)), path)
    return path, content


def write_as(container: Format, path: Path) -> object:
    named = path.with_suffix(container.suffixes[-1])
    content = write_foreign(container.name, named)
    named.rename(path)
    return content


def content_for(container: Format) -> object:
    if container.flat or container.folder:
        return {key: tensor.clone() for key, tensor in state_dict().items()}
    return training_checkpoint()


def metadata_for(container: Format) -> dict[str, str]:
    return {"wnconvert": '"\N{SNOWMAN}"'} if container.annotated and not container.not_written else {}


def test_the_name_of_a_format_is_that_of_its_file(container: Format) -> None:
    assert type(container).__module__ == f"wnconvert.checkpoint.formats.{container.name}"


def test_what_is_written_is_read_again(container: Format, sample: tuple[Path, object]) -> None:
    path, content = sample
    assert recognise(path).name == container.name
    checkpoint = load(path)
    assert difference(content, checkpoint.content, ordered=container.ordered) is None
    assert checkpoint.format == container.name
    assert dict(checkpoint.metadata) == metadata_for(container)


def test_no_format_recognises_a_file_of_another_but_what_that_refines(
    container: Format, sample: tuple[Path, object]
) -> None:
    opened = Opened(sample[0])
    found = {name for name in FORMATS if FORMATS.get(name)().recognises(opened)}
    assert found - {container.refines} == {container.name}


def test_a_file_cut_short_anywhere_is_refused(container: Format, sample: tuple[Path, object], tmp_path: Path) -> None:
    path, _ = sample
    for whole in [path] if path.is_file() else sorted(path.iterdir()):
        data = whole.read_bytes()
        for length in [1, 8, 9, 20, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 2]:
            if path.is_dir():
                whole.write_bytes(data[:length])
                with pytest.raises(CheckpointError):
                    load(path)
                continue
            cut = tmp_path / "cut"
            cut.write_bytes(data[:length])
            with pytest.raises(CheckpointError):
                load(cut)
        whole.write_bytes(data)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing tells here what is mapped")
def test_what_is_read_is_mapped(container: Format, sample: tuple[Path, object]) -> None:
    if container.name == "torch_legacy":
        pytest.skip("a stream of pickles has no places to map")
    path, _ = sample
    maps = Path("/proc/self/maps")
    checkpoint = load(path)
    names = [path.name] if path.is_file() else [file.name for file in path.iterdir() if file.suffix != ".json"]
    assert checkpoint.content
    assert all(f"/{name}" in maps.read_text() for name in names)


def test_what_is_never_written_says_so(container: Format, tmp_path: Path) -> None:
    if container.not_written is None:
        pytest.skip("it is written")
    with pytest.raises(OutputError, match="--format torch_zip"):
        container.write(Checkpoint({}, container.name), tmp_path / "file")


@pytest.mark.parametrize("content", [{"a": {"b": torch.ones(1)}}, {"a": 1}, {1: torch.ones(1)}, [torch.ones(1)]])
def test_what_holds_only_tensors_refuses_all_else(container: Format, tmp_path: Path, content: object) -> None:
    if not (container.flat or container.name in ("torch_sharded", "model_folder")):
        pytest.skip("it holds anything")
    with pytest.raises(OutputError, match="cannot hold this content"):
        container.write(Checkpoint(content, container.name), tmp_path)


def test_metadata_of_a_torch_zip_do_not_disturb_torch(tmp_path: Path) -> None:
    path, state = tmp_path / "file.pt", state_dict()
    FORMATS.get("torch_zip")().write(Checkpoint(state, "torch_zip", {"wnconvert": "{}"}), path)
    for mmap in (False, True):
        assert difference(state, torch.load(path, mmap=mmap, weights_only=True)) is None


def test_a_compressed_archive_is_not_mapped(tmp_path: Path) -> None:
    path, packed = tmp_path / "file.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert difference({"a": torch.arange(1000.0)}, load(packed).content) is None


def test_safetensors_says_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="safetensors cannot hold this content"):
        FORMATS.get("safetensors")().write(Checkpoint({"a": "text"}, "safetensors"), tmp_path / "file")


class Marker:
    """A pickle of this creates a folder when read: harmless, and proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_named_and_never_runs(tmp_path: Path, zipped: bool) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    torch.save({"w": torch.ones(2, 2), "x": Marker(proof)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError, match=r"mkdir.*--trust"):
        load(path)
    assert not proof.exists()
    load(path, trust=True)
    assert proof.exists(), "the marker must be able to tell"


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (pickle.dumps({"a": 1}), "plain pickle"),
        (b'{"a": 1}', "JSON"),
        (b"PK\x03\x04", "cut short"),
        (b"nothing at all", "no checkpoint of a known kind"),
        (MAGIC, "cannot read"),
        ((50).to_bytes(8, "little") + b"{", "cut short or damaged"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, data: bytes, hint: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=hint):
        load(path)


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


@pytest.mark.parametrize("text", ["not json", "[]", "7"])
def test_damaged_metadata_are_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("file/wnconvert.json", text)
    with pytest.raises(CheckpointError, match=r"wnconvert\.json"):
        load(path)


def _samples() -> list[bytes]:
    state = {"conv.weight": torch.ones(2, 2), "step": torch.tensor(3)}
    files = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        files.append(buffer.getvalue())
    return files


SAMPLES = [
    *_samples(),
    (header := json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode())
    and len(header).to_bytes(8, "little") + header + bytes(8),
]


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.sampled_from(SAMPLES),
    length=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6),
    noise=st.binary(max_size=200),
    pure_noise=st.booleans(),
)
@example(sample=SAMPLES[0], length=1.0, changes=[], noise=b"", pure_noise=False)
@example(sample=SAMPLES[2], length=1.0, changes=[], noise=b"", pure_noise=False)
def test_fuzzed_bytes_never_make_reading_fail_otherwise_than_on_purpose(
    tmp_path: Path, sample: bytes, length: float, changes: list[tuple[float, bytes]], noise: bytes, pure_noise: bool
) -> None:
    data = bytearray(sample[: int(len(sample) * length)])
    for place, replacement in changes:
        start = int(place * len(data))
        data[start : start + len(replacement)] = replacement[: len(data) - start]
    path = tmp_path / "fuzzed"
    path.write_bytes(noise if pure_noise else bytes(data))
    try:
        load(path)
    except WnconvertError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message


def test_a_manifest_in_safetensors_is_plain_metadata(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(2)}, path, {"wnconvert": "text"})
    assert load(path).metadata == {"wnconvert": "text"}
