"""Pickles written by hand: no operation of them runs what it should not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoint.hostile import attempt
from tests.checkpoint.pickles.programs import READERS, Reader, doubling, line, read_inert, torch_file
from wnconvert.checkpoint.pickles.inert import find_unknown
from wnconvert.errors import CheckpointError

#: each is a pickle of a list with one object, made by another operation.
PROGRAMS = {
    "REDUCE": b"\x80\x02](cposix\nmkdir\nX\x05\0\0\0proof\x85Re.",
    "INST": b"](" + b"(X\x05\0\0\0proofi" + line("posix", "mkdir") + b"e.",
    "OBJ": b"]((c" + line("posix", "mkdir") + b"X\x05\0\0\0proofoe.",
    "NEWOBJ": b"\x80\x02](c" + line("posix", "mkdir") + b"X\x05\0\0\0proof\x85\x81e.",
    "NEWOBJ_EX": b"\x80\x04](c" + line("posix", "mkdir") + b"X\x05\0\0\0proof\x85}\x92e.",
    "STACK_GLOBAL": b"\x80\x04](\x8c\x05posix\x8c\x05mkdir\x93X\x05\0\0\0proof\x85Re.",
    "the result of a call": b"\x80\x02](c" + line("builtins", "getattr") + b"X\x02\0\0\0osX\x05\0\0\0mkdir\x86R)Re.",
    "BUILD": b"\x80\x02](c" + line("posix", "mkdir") + b")R}X\x0c\0\0\0__setstate__cposix\nmkdir\nsbe.",
}


@pytest.mark.parametrize("kind", list(PROGRAMS))
def test_no_operation_calls_what_is_unknown(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read = read_inert(torch_file(tmp_path / "a.pt", PROGRAMS[kind]))
    assert [place for place, _ in find_unknown(read.content)] == ["'0'"]
    assert not Path("proof").exists()


#: what changes known things, or uses them for what they are not.
MISUSES = {
    "state of a function": b"\x80\x02c"
    + line("torch._utils", "_rebuild_tensor_v2")
    + b"N}X\x0c\0\0\0__defaults__)s\x86b.",
    "state of a class": b"\x80\x02ctorch\nTensor\nN}X\x03\0\0\0fooK\x01s\x86b.",
    "state of a list": b"\x80\x02]}X\x01\0\0\0aK\x01sb.",
    "methods of a dict": b"\x80\x02c" + line("collections", "OrderedDict") + b")R}X\x05\0\0\0itemsK\x01sb.",
    "call of a tensor": b"\x80\x02ctorch\nTensor\n)R)R.",
    "call of a text": b"\x80\x02X\x01\0\0\0a)R.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent text": b"Pa\n.",
    "a storage that is none": b"\x80\x02(X\x07\0\0\0storagecposix\nmkdir\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ.",
    "buffer beside the file": b"\x80\x05\x97.",
    "much memory": b"\x80\x05\x96" + (1 << 50).to_bytes(8, "little") + b".",
    "nothing": b"\x80\x02.",
    "no mark": b"\x80\x02]e.",
    "no end": b"\x80\x02]",
    "an array that claims more": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
    b"(K\x01J\0\0\0\x40\x85cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R\x89C\x08\0\0\0\0\0\0\0\0tb.",
    "a dtype of objects": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
    b"(K\x01K\x01\x85cnumpy\ndtype\nX\x02\0\0\0O8\x89\x88\x87R\x89C\x08AAAAAAAAtb.",
    "a dtype that is rebuilt": b"\x80\x02cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R"
    b"(K\x03X\x01\0\0\0<NX\x01\0\0\0a\x85}K\x08K\x08K\x10tb.",
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", list(MISUSES))
def test_what_is_known_is_neither_changed_nor_misused(tmp_path: Path, kind: str, read: Reader) -> None:
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(CheckpointError) as caught:
        read(torch_file(tmp_path / "a.pt", MISUSES[kind]))
    assert "\n" not in str(caught.value)
    assert "what no checkpoint does" in str(caught.value) or not kind.startswith(("call", "state"))
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    assert not hasattr(torch.Tensor, "foo")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "program",
    [
        doubling(b"K\x01s."),
        b"\x80\x02c" + line("builtins", "set") + doubling(b"\x85\x85R.")[3:],
        b"\x80\x04(" + doubling(b"\x91.")[3:],
        b"\x80\x04\x8f(" + doubling(b"\x90.")[3:],
    ],
    ids=["key", "set", "frozenset", "added"],
)
def test_hashes_that_would_take_forever_are_not_computed(tmp_path: Path, program: bytes, read: Reader) -> None:
    attempt(read, torch_file(tmp_path / "a.pt", program))  # 2 ** 60 hashes would take thousands of years


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["items", "keys", "copy", "__len__"])
def test_a_dict_that_hides_its_methods_is_refused(tmp_path: Path, name: str, read: Reader) -> None:
    text = b"X" + len(name).to_bytes(4, "little") + name.encode()
    program = b"\x80\x02ccollections\nOrderedDict\n)R}" + text + b"K\1sb."
    with pytest.raises(CheckpointError, match="does with a OrderedDict what no checkpoint does"):
        read(torch_file(tmp_path / "a.pt", program))
