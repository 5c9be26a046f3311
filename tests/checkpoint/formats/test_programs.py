"""Programs in files: what loading one would run is found before torch loads it."""

from __future__ import annotations

import collections
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils.parametrizations import weight_norm

from wnconvert.checkpoint import load
from wnconvert.checkpoint.formats import _programs
from wnconvert.errors import CheckpointError, UnsafePickleError

X = torch.linspace(-1, 1, 12).view(3, 4)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "model.pt2"
    shapes = {"input": {0: Dim("batch", max=64)}}
    torch.export.save(torch.export.export(weight_norm(nn.Linear(4, 4)), (X,), dynamic_shapes=shapes), path)
    return path


def changed(sound: Path, path: Path, record: str, change: Callable[[bytes], bytes]) -> Path:
    """Write the archive with one record changed, or added."""
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist()
        folder = names[0].partition("/")[0]
        for name in dict.fromkeys((*names, f"{folder}/{record}")):
            data = old.read(name) if name in names else b""
            new.writestr(name, change(data) if name == f"{folder}/{record}" else data)
    return path


def in_json(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def changes(data: bytes) -> bytes:
        tree = json.loads(data)
        change(tree)
        return json.dumps(tree).encode()

    return changes


def refused(path: Path, reason: str, error: type[CheckpointError] = UnsafePickleError) -> None:
    with pytest.raises(error, match=reason) as caught:
        load(path, modules="program")
    assert type(caught.value) is error


def test_a_program_is_read_only_where_one_is_asked_for(sound: Path) -> None:
    program = load(sound, modules="program").content
    assert torch.equal(program.module()(X), torch.export.load(sound).module()(X))
    assert isinstance(load(sound).content, dict)


def set_size(expression: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        values = tree["graph_module"]["graph"]["tensor_values"]
        sizes = next(size for value in values.values() for size in value["sizes"] if "as_expr" in size)
        sizes["as_expr"]["expr_str"] = expression

    return change


TOUCH = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.parametrize(
    "expression",
    [
        TOUCH,
        "Symbol('s77').func.__class__",
        "Eq('__import__(\"os\").getpid()', 1)",
        "(lambda: 1)()",
        "[1][0]",
        "getattr(Symbol('s77'), 'name')",
        "Pow(Integer(9), Integer(999999999))",
        "Pow(Pow(Integer(9), Integer(9999)), Integer(9999))",
        "9 ** 9 ** 9 ** 9",
        "Symbol('s77'",
        "(" * 300 + "1" + ")" * 300,
        "Integer(1)" * 2000,
        "Float('1e9' * 99999)",
    ],
)
def test_an_expression_that_is_no_size_is_not_evaluated(sound: Path, tmp_path: Path, expression: str) -> None:
    ran = tmp_path / "ran"
    hostile = changed(sound, tmp_path / "h.pt2", _programs._MODEL, in_json(set_size(expression.format(str(ran)))))
    refused(hostile, "an expression that is no size")
    assert not ran.exists()


def test_torch_itself_would_have_run_it(sound: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    hostile = changed(sound, tmp_path / "h.pt2", _programs._MODEL, in_json(set_size(TOUCH.format(str(ran)))))
    with pytest.raises(CheckpointError, match="is damaged, or torch does not load it"):
        load(hostile, modules="program", trust=True)
    assert ran.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(4), Max(Integer(1), Add(Symbol('s53', positive=True, integer=True), Integer(-2))))",
        "Pow(Symbol('s77', integer=True), Integer(2))",
        "s0 + 2*s1",
        "FloorDiv(Symbol('s0', integer=True), Integer(2))",
        "Float('0.5', precision=53)",
    ],
)
def test_expressions_that_torch_writes_are_sizes(expression: str) -> None:
    assert _programs._expression(expression) is None


def set_target(target: str) -> Callable[[Any], None]:
    return lambda tree: tree["graph_module"]["graph"]["nodes"][0].update(target=target)


@pytest.mark.parametrize(
    "target",
    [
        *("torch.hub.load", "torch.ops.aten.from_file.default", "torch.ops.load_library", "torch.ops.mylib.op.default"),
        *("torch.ops.higher_order.triton_kernel_wrapper_mutation", "#executorch:op", "torch.serialization.os.system"),
        *("torch.ops.aten._print.default", "torch._ops.dl_open_guard", "exec"),
    ],
)
def test_what_is_no_op_of_torch_is_not_called(sound: Path, tmp_path: Path, target: str) -> None:
    refused(
        changed(sound, tmp_path / "h.pt2", _programs._MODEL, in_json(set_target(target))),
        "a call of .*, which is none of torch's own ops",
    )


def set_tree(spec: dict[str, Any]) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        signature = tree["graph_module"]["module_call_graph"][0]["signature"]
        signature["in_spec"] = json.dumps([1, spec])

    return change


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "antigravity:x"}]', "children_spec": []},
        {
            "type": "collections.defaultdict",
            "context": {"default_factory_module": "os", "default_factory_name": "getpid", "dict_context": []},
            "children_spec": [],
        },
    ],
)
def test_a_container_that_names_code_is_refused(sound: Path, tmp_path: Path, spec: dict[str, Any]) -> None:
    refused(changed(sound, tmp_path / "h.pt2", _programs._MODEL, in_json(set_tree(spec))), "that names code")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_are_not_read(sound: Path, tmp_path: Path) -> None:
    ran, evil = tmp_path / "ran", io.BytesIO()
    torch.save(Evil(ran), evil)
    hostile = changed(sound, tmp_path / "h.pt2", _programs._EXAMPLE, lambda data: evil.getvalue())
    refused(hostile, "example inputs that are no plain tensors")

    def pickled(tree: Any) -> None:
        next(iter(tree["config"].values()))["use_pickle"] = True

    refused(changed(sound, tmp_path / "p.pt2", _programs._CONFIGS[0], in_json(pickled)), "pickled tensors")
    name = "data/constants/custom_obj_0"
    refused(changed(sound, tmp_path / "o.pt2", name, lambda data: evil.getvalue()), "objects of its own")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("record", "change", "reason"),
    [
        ("data/aotinductor/model/x.so", lambda data: b"\x7fELF", "compiled code; fold the program, and compile that"),
        ("strange", lambda data: b"", "has a record 'strange', which no program has"),
        (_programs._MODEL, lambda data: data[:-9], "is damaged"),
        (_programs._MODEL, lambda data: b"[" * 100_000, "is damaged"),
        (_programs._MODEL, lambda data: b"{}", "is damaged, or torch does not load it"),
        (_programs._CONFIGS[0], lambda data: b"[]", "is damaged"),
    ],
)
def test_what_is_no_program_is_refused(
    sound: Path, tmp_path: Path, record: str, change: Callable[[bytes], bytes], reason: str
) -> None:
    refused(changed(sound, tmp_path / "h.pt2", record, change), reason, CheckpointError)


def test_an_archive_of_several_programs_or_of_an_older_kind_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("m/serialized_exported_program.json", b"{}")
    refused(tmp_path / "old.pt2", "holds no single program of this version of torch.export", CheckpointError)


def test_ordinary_containers_of_inputs_are_read(tmp_path: Path) -> None:
    class Dicts(nn.Module):
        def forward(self, given: Any) -> Any:
            return collections.OrderedDict(y=given["x"] + given["z"][0])

    program = torch.export.export(Dicts(), ({"x": X, "z": [X, None]},))
    torch.export.save(program, tmp_path / "d.pt2")
    read = load(tmp_path / "d.pt2", modules="program").content
    assert torch.equal(read.module()({"x": X, "z": [X, None]})["y"], 2 * X)
