"""Arrays of NumPy, as tensors and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wnconvert.checkpoint import FORMATS, Checkpoint, load
from wnconvert.errors import CheckpointError, OutputError, UnsafePickleError


def test_the_order_of_memory_is_that_of_the_array(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    np.savez(tmp_path / "a.npz", fortran=array, c=np.ascontiguousarray(array), scalar=np.float32(3))
    content = load(tmp_path / "a.npz").content
    assert content["fortran"].stride() == (1, 2, 6)
    assert content["c"].stride() == (12, 4, 1)
    assert torch.equal(content["fortran"], torch.from_numpy(array.copy()))
    assert (content["scalar"].shape, float(content["scalar"])) == ((), 3)
    FORMATS.get("npz")().write(Checkpoint(content, "npz"), tmp_path / "b.npz")
    back = np.load(tmp_path / "b.npz")
    assert back["fortran"].flags.f_contiguous
    assert all(np.array_equal(back[name], content[name].numpy()) for name in content)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(2, dtype=torch.bfloat16), "'a' has dtype bfloat16, which NumPy has not"),
        (torch.ones(2, 3, 4).transpose(0, 1), "'a' is not contiguous"),
    ],
)
def test_what_an_array_cannot_be_is_said(tmp_path: Path, tensor: torch.Tensor, reason: str) -> None:
    with pytest.raises(OutputError, match=reason):
        FORMATS.get("npz")().write(Checkpoint({"a": tensor}, "npz"), tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("array", "error", "reason"),
    [
        (np.array([{}], dtype=object), UnsafePickleError, "holds objects"),
        (np.ones(3, ">f4" if np.little_endian else "<f4"), CheckpointError, "foreign byte order"),
        (np.array(["text"]), CheckpointError, "is damaged: 'a'"),
    ],
)
def test_arrays_that_are_no_tensors_are_refused(
    tmp_path: Path, array: np.ndarray, error: type[Exception], reason: str
) -> None:
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(error, match=reason):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("\ud800", "is no text that UTF-8 can spell"),
        ("a" * 65_532, "is longer than a name"),
        ("a\0b", "has a zero byte"),
    ],
)
def test_names_that_records_cannot_have_are_refused(tmp_path: Path, key: str, why: str) -> None:
    with pytest.raises(OutputError, match=why):
        FORMATS.get("npz")().write(Checkpoint({key: torch.ones(2)}, "npz"), tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore:.*torch.quantize_per_tensor")
@pytest.mark.parametrize("name", ["npz", "safetensors"])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, name: str) -> None:
    ones = torch.ones(2)
    for tensor in (
        torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
        torch.empty(1 << 59, device="meta"),
        ones.to(torch.complex64).conj(),
        torch.eye(2).to_sparse(),
    ):
        with pytest.raises(OutputError, match="cannot hold this content: 'a'"):
            FORMATS.get(name)().write(Checkpoint({"a": tensor}, name), tmp_path / "a")
