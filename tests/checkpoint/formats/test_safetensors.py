from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save as library_bytes, save_file

from wnconvert.checkpoint import FORMATS, Checkpoint, load
from wnconvert.checkpoint.formats.safetensors import DTYPES
from wnconvert.errors import OutputError


def test_the_bytes_of_safetensors_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {f"{index}.{dtype}": torch.ones(3).to(dtype) for index, dtype in enumerate(DTYPES)}
    tensors |= {"empty": torch.empty(0, 2), "scalar": torch.tensor(2.0), '"\n\N{SNOWMAN}': torch.ones(1)}
    FORMATS.get("safetensors")().write(Checkpoint(tensors, "safetensors", {"a": '"b"\n'}), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == library_bytes(tensors, {"a": '"b"\n'})


def test_safetensors_says_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="safetensors cannot hold this content"):
        FORMATS.get("safetensors")().write(Checkpoint({"a": "text"}, "safetensors"), tmp_path / "file")


def test_a_manifest_in_safetensors_is_plain_metadata(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(2)}, path, {"wnconvert": "text"})
    assert load(path).metadata == {"wnconvert": "text"}
