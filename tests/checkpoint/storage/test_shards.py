"""An index, and the files that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file

from tests.checkpoint.hostile import NUMBERS, attempt, fuzz
from wnconvert.checkpoint import Checkpoint, load
from wnconvert.errors import CheckpointError


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
