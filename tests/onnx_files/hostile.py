"""Damaged ONNX models: changes that know how such files are built, each tried in a process of limited time and memory.

``python -m tests.onnx_files.hostile COUNT SEED FOLDER`` tries so many, and prints what became of them as JSON. In the
process of each, a file is folded and proven as `wnconvert.onnx_files.conversion` does it, but without another process
for either, of which there would be thousands. What ends by a signal is counted: that is what the other process is for.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.onnx_files.graphs import array, convolution, model, node, normed, parts
from wnconvert.errors import WnconvertError

#: seconds of processor time, and bytes of memory beside what is used already
SECONDS, MEMORY = 20, 2 << 30
NUMBERS = (-1, 0, 1, 2, 3, 127, 255, 65_535, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 62), (1 << 63) - 1, -(1 << 63))
TEXTS = ("", "x", "w", "conv.weight_g", "y", "../x", "/dev/zero", "a" * 3000, "m.data", "é", "\0")
OPS = (
    "Expand",
    "Tile",
    "ConstantOfShape",
    "Range",
    "If",
    "Loop",
    "Reshape",
    "Gather",
    "Conv",
    "Own",
    "Split",
    "OneHot",
)


def seeds() -> list[dict[str, bytes]]:
    """Return sound models, each as the files of a folder."""
    body = helper.make_graph(
        [*normed("conv.weight_g", "conv.weight_v", "u"), convolution("u", x="x", y="inner")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Constant", [], "sizes", value_ints=[8, 4, 3]),
        *normed("conv.weight_g", "conv.weight_v", "n"),
        node("Reshape", ["n", "sizes"], "w"),
        convolution(y="h"),
        node("Greater", ["flag", "flag"], "b"),
        node("If", ["b"], "k", then_branch=body, else_branch=body),
        node("Add", ["h", "k"], "y"),
    ]
    proto = model(nodes, parts() | {"flag": array(1)[0]})
    external = onnx.ModelProto()
    external.CopyFrom(proto)
    data = bytearray()
    for tensor in external.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
        values = {"location": "m.data", "offset": len(data), "length": len(tensor.raw_data)}
        for key, value in values.items():
            tensor.external_data.add(key=key, value=str(value))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    return [
        {"m.onnx": proto.SerializeToString()},
        {"m.onnx": external.SerializeToString(), "m.data": bytes(data)},
    ]


def mutated(files: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """Return a folder with one to three changes."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(files))
        if name == "m.onnx" and rng.random() < 0.7:
            try:
                proto = onnx.load_from_string(files[name])
                _change(proto, rng)
                files[name] = proto.SerializeToString()
                continue
            except Exception:  # noqa: BLE001 (an earlier change has made it something else)
                pass
        files[name] = _change_bytes(files[name], rng)
    return files


def _change_bytes(data: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((0, 1, 1, 2, 4, 8, 64))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:start]
    new = rng.choice((rng.randbytes(length), b"\xff" * length, data[start : start + length] * 2))
    return data[:start] + new + data[start + length :]


def _change(message: Any, rng: random.Random) -> None:
    """Change a field somewhere in a message: its value, how often it is there, or with what it is exchanged."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = rng.choice(fields)
        is_message = field.message_type is not None
        if field.is_repeated:
            at = rng.randrange(len(value))
            if is_message and rng.random() < 0.8:
                message = value[at]
                continue
            _change_list(field, value, at, rng)
        elif is_message:
            if rng.random() < 0.9:
                message = value
                continue
            message.ClearField(field.name)
        else:
            _set(message, field, rng)
        return


def _change_list(field: Any, value: Any, at: int, rng: random.Random) -> None:
    kind = rng.randrange(3)
    if kind == 0:
        del value[at]
    elif kind == 1 and field.message_type is not None:
        value.add().CopyFrom(value[at])
    elif kind == 1:
        value.append(value[at])
    elif field.message_type is None:
        value[at] = _other(field, value[at], rng)
    else:
        value[at].CopyFrom(value[rng.randrange(len(value))])


def _set(message: Any, field: Any, rng: random.Random) -> None:
    old = getattr(message, field.name)
    setattr(message, field.name, _other(field, old, rng))


def _other(field: Any, old: Any, rng: random.Random) -> Any:
    if isinstance(old, int):
        bits = 31 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM) else 63
        fitting = [number for number in NUMBERS if -(1 << bits) <= number < 1 << bits]
        return rng.choice((*fitting, old + 1, old - 1) if 0 < old < 1 << 30 else fitting)
    if isinstance(old, float):
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
    if isinstance(old, bytes):
        return _change_bytes(old, rng)
    return rng.choice((*TEXTS, *OPS) if field.name == "op_type" else TEXTS)


def attempt(files: dict[str, bytes], folder: Path) -> str:
    """Fold files and prove the result as one command does; return how that ends."""
    from wnconvert.onnx_files.conversion import _fold
    from wnconvert.onnx_files.proof import prove

    for name, data in files.items():
        (folder / name).write_bytes(data)
    out = folder / "out"
    out.mkdir()
    try:
        outcome = _fold(folder / "m.onnx", None, False, out, "o.onnx", "o.onnx.data")
        said = prove(folder / "m.onnx", out / "o.onnx", folder)
    except WnconvertError as error:
        text = str(error)
        wrong = len(text.splitlines()) != 1 or len(text) > 2000
        return f"! an error of {len(text)} characters: {text[:300]!r}" if wrong else type(error).__name__
    if (out / "o.onnx").stat().st_size > 100 * sum(map(len, files.values())):
        return "! wrote far more than it read"
    return (
        "folded" + ("" if "the same" in said else " without a comparison") if outcome.report.modified else "! nothing"
    )


def try_all(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Try so many changes; return how many ended in which way, and what is wrong."""
    import onnxruntime  # noqa: F401 (each process has what this one imports)

    from wnconvert.onnx_files import evaluating, folding, proof, reading, writing  # noqa: F401

    rng, sound = random.Random(seed), seeds()
    ended: Counter[str] = Counter()
    wrong = []
    for index in range(count):
        files = mutated(rng.choice(sound), rng) if index >= len(sound) else sound[index]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        how = _forked(files, folder)
        ended[how if how[0] != "!" else "wrong"] += 1
        if how[0] == "!":
            wrong.append(f"{index}: {how}")
    return {"ended": dict(ended), "wrong": wrong}


def _forked(files: dict[str, bytes], folder: Path) -> str:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            _limit()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            how = attempt(files, folder)
        except MemoryError:
            how = "CheckpointError"  # as `confined` words it
        except BaseException:  # noqa: BLE001 (whatever it is, it is told)
            how = "! raised " + " | ".join(traceback.format_exc().splitlines()[-7:])
        os.write(theirs, how.encode(errors="replace")[:3000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as file:
        how = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return how if code == 0 and how else f"died of {code}"


def _limit() -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))


if __name__ == "__main__":
    print(json.dumps(try_all(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))  # noqa: T201 (this is its result)
