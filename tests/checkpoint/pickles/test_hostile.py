"""Files that were made to do harm: read as what they are, or refused in one line, without running or inflating."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file

from tests.checkpoint.conftest import CASES
from tests.processes import run_code
from wnconvert.checkpoint import Checkpoint, load
from wnconvert.checkpoint.files import EXPANDED
from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch
from wnconvert.checkpoint.storage import zip_archive
from wnconvert.errors import CheckpointError, UnsafePickleError, WnconvertError

fuzz = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


# zip archives


def archive(path: Path, records: dict[str, bytes], *, deflated: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return path


def torch_records() -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.ones(4, 4)}, buffer)
    with zipfile.ZipFile(buffer) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_an_archive_that_would_inflate_without_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archive, "INFLATED", 1 << 20)
    bomb = archive(tmp_path / "bomb", {**torch_records(), "archive/x": bytes(1 << 24)}, deflated=True)
    with pytest.raises(CheckpointError, match="would inflate from"):
        load(bomb)


@pytest.mark.parametrize("size", [5, 1 << 31, 0xFFFFFFFE])
@pytest.mark.parametrize("place", ["file_size", "both"])
def test_a_zip_directory_that_lies_about_sizes_is_refused(tmp_path: Path, size: int, place: str) -> None:
    path = archive(tmp_path / "lie", torch_records())
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    while b"data/0" not in data[entry : entry + 80]:
        entry = data.index(b"PK\x01\x02", entry + 1)
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    if place == "both":
        data[entry + 20 : entry + 24] = size.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load(path)


def test_a_record_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "twice", torch_records())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/data.pkl", b"other")
    with pytest.raises(CheckpointError, match="occurs twice"):
        load(path)


def test_a_tensor_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"'a.weight' claims 4398046511104 bytes, but has only 4"):
        load(tmp_path / "a.pt")
    torch.save({"a.weight": torch.ones(1).expand(4, EXPANDED // 32)}, tmp_path / "b.pt")
    assert load(tmp_path / "b.pt").content["a.weight"].shape == (4, EXPANDED // 32)


def test_deep_pickles_end_in_an_error(tmp_path: Path) -> None:
    content: Any = {}
    for _ in range(60):
        content = {"a": [content]}
    torch.save({"w": torch.ones(1), "x": content}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="nested more than"):
        load(tmp_path / "a.pt")


class Marker:
    """A pickle of this creates a folder when read: harmless, and proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def bombs(path: Path, proof: Path) -> dict[str, Callable[[], object]]:
    evil = pickle.dumps({"a": Marker(proof)}, protocol=2)
    objects = np.array([Marker(proof)], dtype=object)
    return {
        "torch zip": lambda: torch.save({"a": Marker(proof)}, path),
        "torch legacy": lambda: torch.save({"a": Marker(proof)}, path, _use_new_zipfile_serialization=False),
        "array of objects in torch zip": lambda: torch.save({"a": objects}, path),
        "torchscript": lambda: archive(path, {"a/data.pkl": evil, "a/constants.pkl": evil, "a/code/x.py": b""}),
        "npz": lambda: np.savez(path.with_suffix(".npz"), a=objects) or path.with_suffix(".npz").rename(path),
        "pickle": lambda: path.write_bytes(evil),
        "sharded": lambda: (
            torch.save({"a": Marker(proof)}, path.with_name("evil.bin")),
            path.write_text(json.dumps({"weight_map": {"a": "evil.bin"}})),
        ),
    }


@pytest.mark.parametrize("kind", list(bombs(Path(), Path())))
def test_pickle_bombs_never_run(tmp_path: Path, kind: str) -> None:
    proof = tmp_path / "proof"
    bombs(tmp_path / "bomb", proof)[kind]()
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "bomb")
    assert not proof.exists()
    assert isinstance(caught.value, UnsafePickleError) or kind in ("torchscript", "pickle")
    assert "\n" not in str(caught.value)


# safetensors headers


def safetensors_file(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "header longer than the file": safetensors_file(b"{}", b"", 1000),
    "header longer than allowed": safetensors_file(b"{}", b"", 1 << 60),
    "not JSON": safetensors_file(b"{]", b""),
    "more data than the file has": safetensors_file(json.dumps({"a": entry((2,), (2,), (0, 8))}).encode(), bytes(8)),
    "data beyond the end": safetensors_file(json.dumps({"a": entry(offsets=(8, 16))}).encode(), bytes(8)),
    "a hole": safetensors_file(json.dumps({"a": entry(offsets=(4, 12))}).encode(), bytes(12)),
    "two in one place": safetensors_file(json.dumps({"a": entry(), "b": entry()}).encode(), bytes(8)),
    "bytes that are no tensor's": safetensors_file(json.dumps({"a": entry()}).encode(), bytes(9)),
    "another shape": safetensors_file(json.dumps({"a": entry(shape=(3,))}).encode(), bytes(8)),
    "negative": safetensors_file(json.dumps({"a": entry(shape=(-1, -2))}).encode(), bytes(8)),
    "overflow": safetensors_file(json.dumps({"a": entry(shape=(1 << 62, 1 << 62, 8))}).encode(), bytes(8)),
    "unknown dtype": safetensors_file(json.dumps({"a": entry("F31")}).encode(), bytes(8)),
    "metadata of numbers": safetensors_file(json.dumps({"__metadata__": {"a": 1}}).encode(), b""),
    "deep": safetensors_file(b'{"a":' * 100_000, b""),
}


@pytest.mark.parametrize("kind", list(LIES))
def test_headers_that_lie_are_refused_with_torch_and_without(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES[kind])
    for read in (load, inspect_without_torch):
        found = attempt(read, path)
        assert found is None or isinstance(found, CheckpointError)


NUMBERS = st.one_of(st.integers(0, 20), st.sampled_from([-1, 1 << 31, 1 << 62, 1 << 64, 1.5, True, None, "8", []]))
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F4", "F99", 7]),
            "shape": st.one_of(st.lists(NUMBERS, max_size=4), NUMBERS),
            "data_offsets": st.one_of(st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, max_size=3)),
        }
    ),
    NUMBERS,
)
NAMES = st.one_of(
    st.sampled_from(["a.weight", "a.weight_g", "a.weight_v", "__metadata__", "", "\ud800", "\x1b[2J"]),
    st.text(max_size=5),
)


@fuzz
@given(
    header=st.dictionaries(NAMES, ENTRIES, max_size=4),
    data=st.binary(max_size=40),
    length=st.one_of(st.none(), st.integers(0, 300), st.just(1 << 63)),
    cut=st.integers(0, 30),
)
def test_fuzzed_headers(tmp_path: Path, header: dict[str, object], data: bytes, length: int | None, cut: int) -> None:
    path = tmp_path / "a"
    text = json.dumps(header).encode()
    path.write_bytes(safetensors_file(text[: len(text) - cut if cut < 5 else None], data, length))
    results = [attempt(load, path), attempt(inspect_without_torch, path)]
    read, seen = results
    if isinstance(read, Checkpoint) and read.format == "safetensors" and seen is not None:
        assert isinstance(seen, tuple), "what torch's reader takes, the other must take too"


def attempt(read: Callable[[Path], object], path: Path) -> object:
    """Return what a file is read as, or the error on purpose, which has one line; no other error is let through."""
    try:
        return read(path)
    except WnconvertError as error:
        refused = error
    assert "\n" not in str(refused)
    return refused


# indexes


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "", ".", "..", "a\0b", "..\\secret"]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    for names in ({"a": name}, {"a": str(tmp_path / "secret.safetensors")}):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CheckpointError):
            load(index)


def test_a_link_to_a_shard_elsewhere_is_not_followed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model-00001-of-00001.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        load(index)
    (folder / "model-00001-of-00001.safetensors").unlink()
    (folder / "real").write_bytes((tmp_path / "secret.safetensors").read_bytes())
    (folder / "model-00001-of-00001.safetensors").symlink_to("real")
    assert list(load(index).content) == ["a"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "s1", "b": "s1"}, "has no 'b', which its index promises"),
        ({"c": "s2"}, "has 'd', which its index does not list"),
        ({"a": "s3"}, "no such file"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path, names: dict[str, str], message: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "s1")
    save_file({"c": torch.ones(1), "d": torch.ones(1)}, tmp_path / "s2")
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "index.json")


FILES = st.one_of(
    st.sampled_from(["s1", "s2", "../s1", "/s1", "s1/", "./s1", "missing", "link", "index.json", ".", "\0", "\ud800"]),
    st.text(max_size=8),
    NUMBERS,
)


@fuzz
@given(
    names=st.one_of(st.dictionaries(st.sampled_from(["a", "b", "c"]), FILES, max_size=3), NUMBERS),
    metadata=st.one_of(st.none(), NUMBERS, st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2)),
    cut=st.integers(0, 40),
)
def test_fuzzed_indexes(tmp_path: Path, names: object, metadata: object, cut: int) -> None:
    if not (tmp_path / "s1").exists():
        save_file({"a": torch.ones(1)}, tmp_path / "s1")
        torch.save({"b": torch.ones(1)}, tmp_path / "s2")
        (tmp_path / "link").symlink_to("/etc/hostname")
    text = json.dumps({"metadata": metadata, "weight_map": names})
    (tmp_path / "index.json").write_text(text[: len(text) - cut if cut < 5 else None])
    read = attempt(load, tmp_path / "index.json")
    if isinstance(read, Checkpoint):
        assert set(read.content) <= {"a", "b"}


# archives of arrays and of scripts


def zip_samples() -> list[dict[str, bytes]]:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones((2, 2), np.float32), b=np.arange(3))
    with zipfile.ZipFile(buffer) as file:
        arrays = {name: file.read(name) for name in file.namelist()}
    script = {
        "m/data.pkl": pickle.dumps({"a": 1}, protocol=2),
        "m/constants.pkl": b"\x80\x02).",
        "m/data/0": bytes(16),
    }
    weights = {
        "a": {
            "path_name": "weight_0",
            "is_param": True,
            "use_pickle": False,
            "tensor_meta": {
                "dtype": 7,
                "sizes": [{"as_int": 2}],
                "requires_grad": True,
                "strides": [{"as_int": 1}],
                "storage_offset": {"as_int": 0},
                "layout": 7,
            },
        }
    }
    export = {
        "m/archive_format": b"pt2",
        "m/data/weights/weight_0": bytes(8),
        "m/data/weights/model_weights_config.json": json.dumps({"config": weights}).encode(),
    }
    return [arrays, script, export, torch_records()]


ZIPS = zip_samples()


@fuzz
@given(
    number=st.integers(0, len(ZIPS) - 1),
    changes=st.lists(
        st.tuples(st.integers(0, 9), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)), max_size=4
    ),
    data=st.data(),
)
def test_fuzzed_records_of_sound_archives(
    tmp_path: Path, number: int, changes: list[tuple[int, float, bytes]], data: st.DataObject
) -> None:
    records = {name: bytearray(content) for name, content in ZIPS[number].items()}
    for which, place, new in changes:
        content = list(records.values())[which % len(records)]
        start = int(place * len(content))
        content[start : start + len(new)] = new
    path = archive(tmp_path / "a", {name: bytes(content) for name, content in records.items()})
    read = attempt(load, path)
    if isinstance(read, Checkpoint) and isinstance(read.content, dict):
        for value in read.content.values():
            if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta:
                value.sum()  # within the bounds of the file, or this is the end


PEAK = """
import contextlib, resource
from pathlib import Path
from wnconvert.checkpoint import load
from wnconvert.errors import WnconvertError

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in Path().iterdir():
    with contextlib.suppress(WnconvertError):
        load(path)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is counted otherwise, or not at all")
def test_reading_lies_takes_no_memory(tmp_path: Path) -> None:
    for number, data in enumerate(LIES.values()):
        (tmp_path / str(number)).write_bytes(data)
    done = run_code(PEAK, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert int(done.out) < 100_000  # kB
