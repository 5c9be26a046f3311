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
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.checkpoint.hostile import attempt, fuzz
from tests.checkpoint.pickles.programs import read_inert, torch_file
from wnconvert.checkpoint import Checkpoint, fold, inspect
from wnconvert.checkpoint.content.tree import walk
from wnconvert.errors import CheckpointError, UnsafePickleError


class Call:
    """A pickle of this calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


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


def test_a_dict_of_a_trusted_file_may_hide_nothing_either() -> None:
    content = OrderedDict(a=torch.ones(2))
    vars(content)["items"] = 1
    with pytest.raises(CheckpointError, match="attributes with the names of a dict's methods"):
        list(walk(content))
