"""What every container must do; runs over all that are registered."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.checkpoint.conftest import state_dict, training_checkpoint
from wnconvert.checkpoint import FORMATS, Checkpoint, Format, difference, load, recognise
from wnconvert.checkpoint.formats.torch_legacy import MAGIC
from wnconvert.errors import CheckpointError, OutputError, UnsafePickleError, WnconvertError


@pytest.fixture(params=list(FORMATS))
def container(request: pytest.FixtureRequest) -> Format:
    return FORMATS.get(request.param)()


def content_for(container: Format) -> object:
    if container.name == "safetensors":
        return {key: tensor.clone() for key, tensor in state_dict().items()}
    return training_checkpoint()


def test_the_name_of_a_format_is_that_of_its_file(container: Format) -> None:
    assert type(container).__module__ == f"wnconvert.checkpoint.formats.{container.name}"


def test_what_is_written_is_read_again(container: Format, tmp_path: Path) -> None:
    content = content_for(container)
    path = tmp_path / "file.without_a_telling_suffix"
    container.write(Checkpoint(content, container.name), path)
    found = recognise(path)
    assert found.name == container.name
    assert difference(content, found.read(path).content, ordered=container.ordered) is None


def test_exactly_one_format_recognises_a_file(container: Format, tmp_path: Path) -> None:
    path = tmp_path / "file"
    container.write(Checkpoint(content_for(container), container.name), path)
    assert [name for name in FORMATS if FORMATS.get(name)().recognises(path)] == [container.name]


def test_metadata_are_kept_where_there_is_room(container: Format, tmp_path: Path) -> None:
    path = tmp_path / "file"
    metadata = {"license": "x", "wnconvert": '"\N{SNOWMAN}"'}
    container.write(Checkpoint(content_for(container), container.name, metadata), path)
    assert dict(container.read(path).metadata) == (metadata if container.annotated else {})


def test_a_file_cut_short_anywhere_is_refused(container: Format, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    container.write(Checkpoint(content_for(container), container.name, {"a": "b"}), whole)
    data = whole.read_bytes()
    for length in [1, 8, 9, 20, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1]:
        cut = tmp_path / "cut"
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load(cut)


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


def test_torchscript_has_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"archive/{name}", b"")
    with pytest.raises(CheckpointError, match=r"torch\.jit\.load"):
        load(path)


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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.sampled_from(SAMPLES),
    length=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6),
    noise=st.binary(max_size=200),
    pure_noise=st.booleans(),
)
@example(sample=SAMPLES[0], length=1.0, changes=[], noise=b"", pure_noise=False)
@example(sample=SAMPLES[2], length=1.0, changes=[], noise=b"", pure_noise=False)
def test_no_bytes_make_reading_fail_otherwise_than_on_purpose(
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
