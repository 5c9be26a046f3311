"""Pickles made to do harm, read for the state dicts in them: nothing runs, nothing hangs, nothing inflates."""

from __future__ import annotations

import builtins
import io
import os
import pickletools
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.checkpoint.pickles.test_hostile import attempt, fuzz
from wnconvert.checkpoint import Checkpoint, fold, inspect, load
from wnconvert.checkpoint.content.tree import walk
from wnconvert.checkpoint.pickles.inert import find_unknown
from wnconvert.errors import CheckpointError, UnsafePickleError


class Call:
    """A pickle of this calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def read_inert(path: Path) -> Checkpoint:
    return load(path, modules="state_dict")


#: both ways to read a file that is not trusted.
Reader: TypeAlias = Callable[[Path], Checkpoint]
READERS = [pytest.param(load, id="refusing"), pytest.param(read_inert, id="inert")]


def module_with(place: str, value: Any) -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2))
    if place == "attribute":
        module.extra = value
    elif place in ("_non_persistent_buffers_set", "_state_dict_hooks"):
        module.__dict__[place] = value
    else:
        module.__dict__[place]["x"] = value
    return module


PLACES = (
    "attribute",
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_pre_hooks",
    "_state_dict_hooks",
    "_non_persistent_buffers_set",
)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", [*PLACES, "beside"])
@pytest.mark.parametrize("kind", ["mkdir", "system", "eval", "exec", "import"])
def test_nothing_that_a_module_holds_is_called(tmp_path: Path, kind: str, place: str, zipped: bool) -> None:
    proof = tmp_path / "proof"
    call = {
        "mkdir": Call(os.mkdir, str(proof)),
        "system": Call(os.system, f"mkdir {proof}"),
        "eval": Call(builtins.eval, f"__import__('os').mkdir({str(proof)!r})"),
        "exec": Call(builtins.exec, f"import os; os.mkdir({str(proof)!r})"),
        "import": Call(builtins.__import__, "wave"),
    }[kind]
    content = {"m": nn.Linear(2, 2), "x": call} if place == "beside" else {"m": module_with(place, call)}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = attempt(read_inert, tmp_path / "a.pt")
    assert not proof.exists()
    assert "wave" not in sys.modules
    if place in ("_parameters", "_buffers", "_modules"):
        assert isinstance(read, CheckpointError)
    else:
        assert isinstance(read, Checkpoint)
        assert "bias" in list(read.content["m"])[-1]
    if place == "beside":
        with pytest.raises(UnsafePickleError, match="'x' is an object of"):
            fold(read)


def torch_file(path: Path, program: bytes) -> Path:
    """Write a file of torch whose pickle is the given program."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/version", "3\n")
    return path


def line(*names: str) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


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


def doubling(operation: bytes, times: int = 60) -> bytes:
    """Return a program for tuples of two equal tuples of two equal tuples, and so on."""
    return b"\x80\x02})" + b"2\x86" * times + operation


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


def test_torchscript_archives_compute_no_such_hashes_either(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", doubling(b"K\x01s."))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="TorchScript archive that cannot be read without its code"):
        load(path)


class Nested:
    """Pickles like a module that holds others, and no class of torch is needed to make it."""

    def __init__(self, **modules: Any) -> None:
        self.__dict__.update(_parameters={}, _buffers={}, _modules=modules)


def test_modules_that_would_multiply_are_refused(tmp_path: Path) -> None:
    module = Nested()
    for _ in range(60):
        module = Nested(a=module, b=module)
    torch.save(module, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="nested without measure"):
        read_inert(tmp_path / "a.pt")


def test_modules_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.ReLU())
    module.add_module("self", module)
    torch.save(module, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="nested without measure"):
        read_inert(tmp_path / "a.pt")


def test_deep_pickles_end_in_an_error(tmp_path: Path) -> None:
    deep = torch_file(tmp_path / "a.pt", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(CheckpointError, match="nested more than"):
        read_inert(deep)
    calls = torch_file(tmp_path / "b.pt", b"\x80\x02)" + b"ca\nb\n0ca\nb\nq\x010h\x01)R\x85" * 20_000 + b".")
    assert isinstance(attempt(read_inert, calls), (Checkpoint, CheckpointError))


def test_content_that_holds_itself_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"m": nn.Linear(2, 2), "list": [1]}
    content["list"].append(content)
    torch.save(content, tmp_path / "a.pt")
    read = read_inert(tmp_path / "a.pt").content
    assert read["list"][1] is read
    assert list(read["m"]) == ["weight", "bias"]


def test_legacy_files_that_lie_about_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(4, 4), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) - 70, len(data) // 2, 60, 20):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_inert(path)
    where = data.index((16).to_bytes(8, "little"))
    path.write_bytes(data[:where] + (1 << 40).to_bytes(8, "little") + data[where + 8 :])
    with pytest.raises(CheckpointError, match="its tensors are not all there"):
        read_inert(path)


def test_sparse_tensors_that_lie_are_refused_and_forgotten(tmp_path: Path) -> None:
    wrong = torch.sparse_coo_tensor(torch.tensor([[1 << 40]]), torch.ones(1), (3,), check_invariants=False)
    torch.save({"m": nn.Linear(2, 2), "sparse": wrong}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"(?i)size|indices"):
        read_inert(tmp_path / "a.pt")
    torch.save({"m": nn.Linear(2, 2), "sparse": torch.eye(3).to_sparse()}, tmp_path / "b.pt")
    assert torch.equal(read_inert(tmp_path / "b.pt").content["sparse"].to_dense(), torch.eye(3))


def samples() -> list[bytes]:
    content = {
        "model": nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 3, 3)), nn.BatchNorm1d(3)),
        "args": Namespace(x=OrderedDict(a=1)),
        "arrays": [np.arange(3), np.float64(2), {1, 2}],
        "tensors": [(1, 2), torch.ones(2), nn.Parameter(torch.ones(1))],
    }
    found = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    return found


ZIP, LEGACY = samples()
OPERATIONS = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


@fuzz
@given(
    zipped=st.booleans(),
    changes=st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.integers(0, 4),
            st.one_of(st.sampled_from(OPERATIONS), st.binary(max_size=6)),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_fuzzed_pickles_of_modules(tmp_path: Path, zipped: bool, changes: list[tuple[float, int, bytes]]) -> None:
    with zipfile.ZipFile(io.BytesIO(ZIP)) as file:
        records = {name: file.read(name) for name in file.namelist()}
    program = bytearray(records["archive/data.pkl"] if zipped else LEGACY[20:])
    for place, length, new in changes:
        start = int(place * len(program))
        program[start : start + length] = new
    path = tmp_path / "a"
    if zipped:
        with zipfile.ZipFile(path, "w") as file:
            for name, data in {**records, "archive/data.pkl": bytes(program)}.items():
                file.writestr(name, data)
    else:
        path.write_bytes(LEGACY[:20] + bytes(program))
    read = attempt(read_inert, path)
    if isinstance(read, Checkpoint):
        attempt(lambda _: inspect(read), path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["items", "keys", "copy", "__len__"])
def test_a_dict_that_hides_its_methods_is_refused(tmp_path: Path, name: str, read: Reader) -> None:
    text = b"X" + len(name).to_bytes(4, "little") + name.encode()
    program = b"\x80\x02ccollections\nOrderedDict\n)R}" + text + b"K\1sb."
    with pytest.raises(CheckpointError, match="does with a OrderedDict what no checkpoint does"):
        read(torch_file(tmp_path / "a.pt", program))


def test_a_dict_of_a_trusted_file_may_hide_nothing_either() -> None:
    content = OrderedDict(a=torch.ones(2))
    vars(content)["items"] = 1
    with pytest.raises(CheckpointError, match="attributes with the names of a dict's methods"):
        list(walk(content))
