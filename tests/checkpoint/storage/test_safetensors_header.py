"""Headers that lie, read with the library and without."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from tests.checkpoint.hostile import NUMBERS, attempt, fuzz
from tests.processes import run_code
from wnconvert.checkpoint import Checkpoint, load
from wnconvert.checkpoint.inspecting.without_torch import inspect_without_torch
from wnconvert.errors import CheckpointError


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
