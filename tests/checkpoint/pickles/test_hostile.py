"""Files that were made to do harm: read as what they are, or refused in one line, without running or inflating."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.checkpoint.hostile import archive, attempt, fuzz, torch_records
from wnconvert.checkpoint import Checkpoint, load
from wnconvert.checkpoint.storage.limits import LEAST
from wnconvert.errors import CheckpointError, UnsafePickleError


def test_a_tensor_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"claims 4398046511104 bytes, but has only 4"):
        load(tmp_path / "a.pt")
    torch.save({"a.weight": torch.ones(1).expand(4, LEAST // 32)}, tmp_path / "b.pt")
    assert load(tmp_path / "b.pt").content["a.weight"].shape == (4, LEAST // 32)


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
