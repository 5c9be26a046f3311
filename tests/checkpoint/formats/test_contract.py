"""What every container must do; runs over all that are registered."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors.torch import load_file

from tests.checkpoint.conftest import CASES, leftovers, state_dict, training_checkpoint
from tests.checkpoint.formats.samples import write_foreign
from wnconvert.checkpoint import FORMATS, Checkpoint, Format, difference, load, recognise, save
from wnconvert.checkpoint.formats.torch_legacy import MAGIC
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError, OutputError, VerificationError, WnconvertError


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


#: what reads a container besides us, and where its function is looked up
LIBRARIES = {
    "model_folder": "wnconvert.checkpoint.formats.safetensors.safe_open",
    "npz": "numpy.load",
    "safetensors": "wnconvert.checkpoint.formats.safetensors.safe_open",
    "safetensors_sharded": "wnconvert.checkpoint.formats.safetensors.safe_open",
    "torch_legacy": "torch.load",
    "torch_sharded": "torch.load",
    "torch_zip": "torch.load",
}


def library_reads(path: Path) -> Iterator[object]:
    """Yield what is in the files of a checkpoint, each read by its own library in the way that it has by default."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        start = file.read_bytes()[:9]
        if start.endswith(b"{"):
            yield load_file(file)
        elif start.startswith(b"PK") and all(name.endswith(".npy") for name in zipfile.ZipFile(file).namelist()):
            with np.load(file) as arrays:
                yield {key: torch.from_numpy(arrays[key]) for key in arrays}
        elif not start.startswith(b"{"):
            yield torch.load(file)


@pytest.mark.parametrize("trust", [False, True])
def test_what_its_own_library_refuses_is_never_kept(
    container: Format, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool
) -> None:
    if container.not_written:
        pytest.skip("it is not written")
    checkpoint = Checkpoint(content_for(container), container.name)
    save(checkpoint, tmp_path / "kept", source=source, trust=trust)

    def refuse(*args: object, **kwargs: object) -> object:
        raise ValueError("not like this")

    monkeypatch.setattr(LIBRARIES[container.name], refuse)
    with pytest.raises(VerificationError, match=r"cannot be read back, so it was not kept: .*not like this"):
        save(checkpoint, tmp_path / "refused", source=source, trust=trust)
    assert leftovers(tmp_path, "in.pt", "kept") == set()


def test_its_own_library_reads_what_is_written(container: Format, source: Path, tmp_path: Path) -> None:
    if container.not_written:
        pytest.skip("it is not written")
    content = content_for(container)
    save(Checkpoint(content, container.name, metadata_for(container)), tmp_path / "out", source=source)
    read = list(library_reads(tmp_path / "out"))
    assert len(read) == 1
    assert difference(content, read[0], ordered=container.ordered, kinds=not container.flat) is None


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
