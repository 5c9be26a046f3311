"""What pickles may call: as those who pickle do it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.hostile import attempt
from tests.checkpoint.pickles.programs import READERS, Reader, line, read_inert, torch_file
from wnconvert.checkpoint import Checkpoint
from wnconvert.checkpoint.pickles.calls import is_fine, known
from wnconvert.errors import CheckpointError


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def glob(*names: str) -> bytes:
    return b"c" + line(*names)


ENCODE = glob("_codecs", "encode")
#: each is a pickle that calls something known with what nobody gives it.
CALLS = {
    "another codec": ENCODE + text("a") + text("punycode") + b"\x86R",
    "the default codec": ENCODE + text("a") + b"\x85R",
    "a codec with errors": ENCODE + text("a") + text("latin1") + text("ignore") + b"\x87R",
    "a buffer of so many bytes": glob("__builtin__", "bytearray") + b"K\7\x85R",
    "a tensor of so many elements": glob("torch", "FloatTensor") + b"K\7\x85R",
    "a storage of so many elements": glob("torch", "FloatStorage") + b"K\7\x85R",
    "an array of so many elements": glob("numpy", "ndarray") + b"K\7\x85\x85R",
    "an array that is not empty": glob("numpy.core.multiarray", "_reconstruct")
    + glob("numpy", "ndarray")
    + b"K\7\x85C\1b\x87R",
    "a dtype of many fields": glob("numpy", "dtype") + text("f8,f8,f8,f8,f8,f8") + b"\x85R",
    "a set of a text": glob("__builtin__", "set") + text("abc") + b"\x85R",
    "a counter of a text": glob("collections", "Counter") + text("abc") + b"\x85R",
    "a parameter of a number": glob("torch.nn.parameter", "Parameter") + b"K\1\x85R",
    "a path of a number": glob("pathlib", "PosixPath") + b"K\1\x85R",
    "a call by a subclass": glob("torch._tensor", "_rebuild_from_type_v2")
    + b"("
    + ENCODE
    + glob("torch", "Tensor")
    + text("a")
    + text("punycode")
    + b"\x86}tR",
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", list(CALLS))
def test_what_nobody_calls_like_that_is_not_called(kind: str, read: Reader, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"what no checkpoint does"):
        read(torch_file(tmp_path / "a.pt", b"\x80\x02" + CALLS[kind] + b"."))


@pytest.mark.parametrize("name", ["_rebuild_nested_tensor", "_rebuild_wrapper_subclass"])
def test_tensors_without_memory_of_their_own_are_unknown(name: str, tmp_path: Path) -> None:
    read = read_inert(torch_file(tmp_path / "a.pt", b"\x80\x02" + glob("torch._utils", name) + b")R."))
    assert "its code alone can build" in read.notes[0]


def test_attributes_of_a_parameter_are_kept_but_hide_nothing(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = "kept"  # type: ignore[attr-defined]
    torch.save({"a": parameter}, tmp_path / "a.pt")
    assert read_inert(tmp_path / "a.pt").content["a"].note == "kept"
    parameter.detach = None  # type: ignore[assignment, method-assign]
    torch.save({"a": parameter}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="does with a Parameter what no checkpoint does"):
        read_inert(tmp_path / "a.pt")


def test_a_tensor_with_attributes_is_read(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    tensor.note = "kept"  # type: ignore[attr-defined]
    torch.save({"a": tensor}, tmp_path / "a.pt")
    assert read_inert(tmp_path / "a.pt").content["a"].note == "kept"


def test_all_that_is_looked_up_is_called_as_a_rule_says_or_not_at_all() -> None:
    for each in known().values():
        assert not is_fine(each, (object(),) * 9)


#: keys that take long to be told apart, or to be hashed
KEYS = {
    "nested": b"K\1\x85\x85",
    "frozen": b"(K\1\x91\x85",
    "frozen in frozen": b"((K\1\x91\x91",
}


@pytest.mark.parametrize("kind", list(KEYS))
def test_keys_of_keys_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a key of nested tuples"):
        read_inert(torch_file(tmp_path / "a.pt", b"\x80\x04}" + KEYS[kind] + b"Ns."))


def test_many_keys_of_one_hash_are_refused(tmp_path: Path) -> None:
    one_hash = [(1 << 61) - 1 << number for number in range(3, 80)]
    assert len(set(map(hash, one_hash))) == 1
    torch.save(dict.fromkeys(one_hash), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="keys that are made to be slow"):
        read_inert(tmp_path / "a.pt")
    pairs = {(x, y): 0 for x in range(-40, 40) for y in range(-40, 40)}  # the hashes of -1 and -2 are one
    torch.save([pairs, dict(pairs), {1 << 70: 1, 2.5: 2, True: 3}], tmp_path / "b.pt")
    assert read_inert(tmp_path / "b.pt").content[1] == pairs


def test_work_is_bounded_by_the_size_of_the_file(tmp_path: Path) -> None:
    again = b"\x80\x02" + ENCODE + b"q\0" + text("a" * 100_000) + text("latin1") + b"\x86q\1](" + b"h\0h\1R" * 1000
    path = torch_file(tmp_path / "a.pt", again + b"e.")
    with pytest.raises(CheckpointError, match=r"makes far more work than its \d+ bytes allow"):
        read_inert(path)
    fewer = torch_file(tmp_path / "b.pt", again[: -5 * 500] + b"e.")
    assert isinstance(attempt(read_inert, fewer), Checkpoint)
