"""Damaged and hostile programs of torch.export: changes that know how such archives are built, and code put into them.

``python -m tests.cli.hostile_programs COUNT [FIRST]`` tries so many, and prints what is wrong. A case is its number:
the same number gives the same file and commands. What code is put in makes a file `RAN`, which no command may leave.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.parametrizations import weight_norm

from tests.checkpoint.mutations import Files, mutated, read_files, write_files
from tests.checkpoint.sound import KINDS
from tests.cli.limited import RAN, Case, ready, try_all

#: what is done with a program
COMMANDS = (
    *("fold in -o out", "apply in -o out", "fold in -o out --strict --json", "apply in --dry-run --json"),
    *("apply in -o out -s weight_standardization", "verify in in", "inspect in", "fold in -o out --fuse all"),
    *("export in -o x.pt2 --dry-run --json", "export in -o x.onnx --dry-run"),
)
#: commands for one mutation, and cases that one process tries
EACH, CHUNK = 2, 40
#: code, as what evaluates, resolves or calls a text would run it
TOUCH = f"__import__('pathlib').Path({RAN!r}).touch()"
CODE = (TOUCH, f"Symbol({TOUCH!r})", f"torch.os.mkdir.{TOUCH}", f"[{TOUCH}]", '{"fqn": "os.system"}', "builtins.exec")
#: the keys of texts that torch does more with than to keep them
USED = ("expr_str", "target", "as_operator", "context", "type", "in_spec", "out_spec", "as_string", "path_name")


class Net(nn.Module):
    """Sizes that are expressions, a branch, a region without gradients, inputs and outputs in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(3, 4, 3))
        self.norm = nn.BatchNorm1d(4)
        self.branch = weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor, scale: int, options: dict[str, Tensor]) -> dict[str, Tensor]:
        y = self.norm(self.conv(torch.cat([x, x], dim=2))).mean(2)
        with torch.no_grad():
            y = y + self.norm.running_mean
        y = torch.cond(y.sum() > 0, lambda y: self.branch(y), lambda y: y - 1, (y,))
        return {"y": y * scale, "z": options["shift"] + y}


class _Touch:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(RAN),)


def sound() -> list[Files]:
    """Return sound programs, each as the files of a folder."""
    found = []
    for make in (KINDS["torch export"].make, _net):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            found.append(read_files(Path(folder)))
    return found


def _net(folder: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.ones(2, 3, 9), 2, {"shift": torch.ones(4)}
    shapes = {"x": {0: Dim("batch", max=64), 2: Dim("time", min=4)}, "scale": None, "options": {"shift": None}}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Net().eval(), inputs, dynamic_shapes=shapes), buffer)
    (folder / "in").write_bytes(buffer.getvalue())


def with_code(data: bytes, rng: random.Random) -> bytes:
    """Put code into one record of an archive."""
    records = _records(data)
    name = rng.choice([name for name, each in records.items() if each.startswith((b"{", b"PK"))])
    changes = {name: _code_in(records[name], rng)}
    if name.endswith("_weights_config.json") and rng.random() < 0.5:
        changes |= {each: _pickled() for each in records if "/weights/weight_" in each}
        changes[name] = records[name].replace(b'"use_pickle": false', b'"use_pickle": true')
    return _with(data, changes)


def _records(data: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def _with(data: bytes, changes: Files) -> bytes:
    """Return an archive with other records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (_records(data) | changes).items():
            file.writestr(name, content)
    return buffer.getvalue()


def _code_in(data: bytes, rng: random.Random) -> bytes:
    if not data.startswith(b"{"):
        return _pickled()
    root = json.loads(data)
    texts = [(node, key) for node, key in _places(root) if isinstance(node[key], str)]
    used = [(node, key) for node, key in texts if key in USED]
    if texts:
        node, key = rng.choice(used if used and rng.random() < 0.7 else texts)
        code = rng.choice(CODE)
        node[key] = [code] if rng.random() < 0.1 else code
    return json.dumps(root).encode()


def _places(root: Any) -> Iterator[tuple[Any, Any]]:
    pending = [root]
    while pending:
        node = pending.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            yield node, key
            if isinstance(node[key], (dict, list)):
                pending.append(node[key])


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(_Touch(), buffer, pickle_module=pickle)
    return buffer.getvalue()


def cases(count: int, first: int = 0) -> Iterator[Case]:
    """Yield mutations; every third has code in it."""
    programs = sound()
    for number in range(first, first + count):
        rng = random.Random(number)
        files = programs[number % len(programs)]
        files = {"in": with_code(files["in"], rng)} if number % 3 == 0 else mutated(files, rng)
        commands = [each.split() for each in rng.sample(COMMANDS, EACH)]
        yield Case(str(number), partial(write_files, files, Path()), commands)


def fuzz(count: int, first: int = 0, *, tell: Callable[[str], object] = lambda text: None) -> list[str]:
    """Try so many mutations; return what is wrong, and tell it meanwhile."""
    ready()
    wrong: list[str] = []
    everything = list(cases(count, first))
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, count, CHUNK):
            several = everything[start : start + CHUNK]
            found = try_all(several, Path(folder) / "here")
            wrong += found
            for text in (*found, f"{start + len(several)} tried, {len(wrong)} wrong"):
                tell(text)
    return wrong


def trusted() -> Case:
    """Return a case of which the code runs, for its command trusts it."""
    data = sound()[0]["in"]
    (inputs,) = (name for name in _records(data) if name.endswith("sample_inputs/model.pt"))
    files = {"in": _with(data, {inputs: _pickled()})}
    return Case("trusted", partial(write_files, files, Path()), [["fold", "in", "-o", "out", "--trust"]])


if __name__ == "__main__":
    fuzz(*map(int, sys.argv[1:]), tell=partial(print, flush=True))
