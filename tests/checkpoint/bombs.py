"""Small files that would take forever, or all memory, if what they say were believed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.checkpoint.hostile import archive, torch_records
from tests.checkpoint.pickles.programs import line, torch_file

#: what writes each file; all have fewer than a million bytes
BOMBS: dict[str, Callable[[Path], object]] = {}
P2 = b"\x80\x02"
#: each is smaller.
LARGEST = 1_000_000
MEGA = 900_000


def bomb(function: Callable[[Path], object]) -> Callable[[Path], object]:
    BOMBS[function.__name__] = function
    return function


def program(name: str, content: Callable[[], bytes], *, deflated: bool = False) -> None:
    """File a pickle, as a file of torch."""

    def make(path: Path) -> None:
        records = {**torch_records(), "archive/data.pkl": content()}
        archive(path, records, deflated=deflated)

    BOMBS[name] = make


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"X" + len(data).to_bytes(4, "little") + data


def glob(*names: str) -> bytes:
    return b"c" + line(*names)


def long(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


ENCODE = glob("_codecs", "encode")
ORDERED = glob("collections", "OrderedDict")
SET = glob("__builtin__", "set")
STORAGE = b"(" + text("storage") + glob("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x10tQ"
REBUILD = glob("torch._utils", "_rebuild_tensor_v2")


def tensor(size: bytes, stride: bytes) -> bytes:
    """Return the program for a tensor over the 16 elements of `torch_records`."""
    return REBUILD + b"(" + STORAGE + b"K\0" + size + stride + b"\x89" + ORDERED + b")RtR"


def colliding() -> list[int]:
    modulus = (1 << 61) - 1
    return [modulus * number for number in range(1, 60_000)]


def colliding_tuples(count: int = 25_000) -> list[tuple[int, int]]:
    """Return pairs of one hash: the second number undoes what the first does to it (Objects/tupleobject.c)."""
    first, second, five, size = 11400714785074694791, 14029467366897019727, 2870177450012600261, 1 << 64
    inverse = pow(second, -1, size)

    def step(total: int, lane: int) -> int:
        total = (total + lane * second) % size
        return ((total << 31 | total >> 33) % size) * first % size

    goal = 12345
    found: list[tuple[int, int]] = []
    number = 0
    while len(found) < count:
        number += 1
        lane = (goal - step(five, number)) * inverse % size
        if lane < (1 << 61) - 1:
            found.append((number, lane))
    assert len({hash(each) for each in found[:50]}) == 1
    return found


program("slow codec", lambda: P2 + ENCODE + text("\u4e00a" * 15_000) + text("punycode") + b"\x86R.")
program("codec again and again", lambda: P2 + ENCODE + b"q\0" + text("a" * 400_000) + text("latin1") + b"\x86q\1]("
        + b"h\0h\1R" * 100_000 + b"e.")  # fmt: skip
program("deep lists", lambda: P2 + b"]" * 300_000 + b"a" * 299_999 + b".")
program("deep dicts", lambda: P2 + b"}K\0" * 200_000 + b"N" + b"s" * 200_000 + b".")
program("deep tuples", lambda: P2 + b")" + b"\x85" * 500_000 + b".")
program("deep calls", lambda: P2 + b")" + (glob("a", "b") + b"q\1" + b"0" + b"h\1)R\x85") * 60_000 + b".")
program("deep attributes", lambda: P2 + glob("argparse", "Namespace") + b"q\0" + b"0"
        + (b"h\0)R}" + text("a")) * 40_000 + b"N" + b"sb" * 40_000 + b".")  # fmt: skip
program("deep attributes of dicts", lambda: P2 + ORDERED + b"q\0" + b"0"
        + (b"h\0)R}" + text("a")) * 40_000 + b"N" + b"sb" * 40_000 + b".")  # fmt: skip
program("doubled lists", lambda: P2 + b"]" + b"q\0]h\0ah\0a" * 60_000 + b".")
program("doubled tuples", lambda: P2 + b")" + b"2\x86" * 200_000 + b".")
program("frozen sets", lambda: b"\x80\x04" + b"(K\0\x91q\0(K\1\x91q\1"
        + b"".join(b"(h\0h\1\x91(h\0h\1K\2\x91q\1" + b"0q\0" for _ in range(40)) + b".")  # fmt: skip
program("many operations", lambda: P2 + b"(" + b"N" * (40 << 20) + b"l.", deflated=True)
program("many operations as they are", lambda: P2 + b"(" + b"N" * MEGA + b"l.")
program("many lists", lambda: P2 + b"(" + b"]" * MEGA + b"l.")
program("many dicts", lambda: P2 + b"(" + b"}" * MEGA + b"l.")
program("long text", lambda: P2 + text(b"a" * (60 << 20)) + b".", deflated=True)
program("long key", lambda: P2 + b"}" + text(b"a" * (8 << 20)) + tensor(b"K\4\x85", b"K\1\x85") + b"s.", deflated=True)
program("huge number", lambda: P2 + b"}" + text("a") + long(1 << 3_000_000) + b"s.")
program("huge keys", lambda: P2 + b"}" + long(1 << 3_000_000) + b"Ns.")
program("long decimals", lambda: P2 + b"}" + text("a") + b"L" + b"7" * 800_000 + b"L\ns.")
program("long float", lambda: P2 + b"}" + text("a") + b"F" + b"7" * 800_000 + b"\ns.")
program("keys of one hash", lambda: P2 + b"}(" + b"".join(long(n) + b"N" for n in colliding()) + b"u.")
program("tuples of one hash", lambda: P2 + b"}("
        + b"".join(long(a) + long(b) + b"\x86N" for a, b in colliding_tuples()) + b"u.")  # fmt: skip
program("a buffer", lambda: P2 + glob("__builtin__", "bytearray") + long(1 << 36) + b"\x85R.")
program("a tensor class", lambda: P2 + glob("torch", "FloatTensor") + long(1 << 33) + b"\x85R.")
program("a storage class", lambda: P2 + glob("torch", "FloatStorage") + long(1 << 33) + b"\x85R.")
program("an array class", lambda: P2 + glob("numpy", "ndarray") + long(1 << 34) + b"\x85\x85R.")
program("an array without state", lambda: P2 + glob("numpy.core.multiarray", "_reconstruct") + glob("numpy", "ndarray")
        + long(1 << 34) + b"\x85" + b"C\1b" + b"\x87R.")  # fmt: skip
program("a dtype of many bytes", lambda: P2 + glob("numpy", "dtype") + text("S" + "9" * 9) + b"\x85R.")
program("dtypes", lambda: P2 + glob("numpy", "dtype") + text(",".join(["f8"] * 200_000)) + b"\x85R.")
program("sets again and again", lambda: P2 + SET + b"q\0(" + b"NK\1K\2" * 50_000 + b"l\x85q\1](" + b"h\0h\1R" * 100_000
        + b"e.")  # fmt: skip
program("dicts again and again", lambda: P2 + ORDERED + b"q\0(" + b"K\1K\2\x86" * 50_000 + b"l\x85q\1]("
        + b"h\0h\1R" * 50_000 + b"e.")  # fmt: skip
program("attributes again and again", lambda: P2 + glob("argparse", "Namespace") + b"q\0}("
        + b"".join(text(str(n)) + b"N" for n in range(20_000)) + b"uq\1](" + b"h\0)Rh\1b" * 50_000 + b"e.")  # fmt: skip
program("names again and again", lambda: b"\x80\x04" + text("a" * 400_000) + b"q\0](" + b"h\0h\0\x93" * 80_000 + b"e.")
program("arguments again and again", lambda: b"\x80\x04(" + b"N" * 200_000 + b"tq\0" + ORDERED + b"q\1}"
        + text("a") + b"Nsq\2]("
        + b"h\1h\0h\2\x92" * 80_000 + b"e.")  # fmt: skip
program("storages again and again", lambda: P2 + b"(" + b"N" * 200_000 + b"tq\0](" + b"h\0Q" * 80_000 + b"e.")
program("a storage of tuples", lambda: P2 + b"(" + text("storage") + glob("torch", "FloatStorage") + b")"
        + b"2\x86" * 60
        + text("cpu") + b"K\x10tQ.")  # fmt: skip
program(
    "a tensor of terabytes", lambda: P2 + b"}" + text("a.weight") + tensor(long(1 << 40) + b"\x85", b"K\0\x85") + b"s."
)
program("a tensor of terabytes in a list", lambda: P2 + b"]" + tensor(long(1 << 40) + b"\x85", b"K\0\x85") + b"a.")
program("a tensor beyond numbers", lambda: P2 + b"}" + text("a.weight")
        + tensor((long(1 << 40)) * 2 + b"\x86", b"K\0K\0\x86") + b"s.")  # fmt: skip
program("many large tensors", lambda: P2 + b"}" + STORAGE + b"q\0" + b"0" + b"".join(
        text(f"{n}.weight") + REBUILD + b"(h\0K\0" + long(1 << 12) + long((1 << 10) + n) + b"\x86K\0K\0\x86\x89N"
        + b"tRs" for n in range(6000)) + b".")  # fmt: skip
program(
    "dims",
    lambda: (
        P2 + b"}" + text("a.weight") + tensor(b"(" + b"K\1" * 200_000 + b"t", b"(" + b"K\1" * 200_000 + b"t") + b"s."
    ),
)
program("meta", lambda: P2 + b"}(" + b"".join(
        text(name) + glob("torch._utils", "_rebuild_meta_tensor_no_storage") + b"(" + glob("torch", "float32")
        + long(1 << 31) * 2 + b"\x86" + long(1 << 31) + b"K\1\x86\x89tR" for name in ("a.weight", "b.weight_v"))
        + b"u.")  # fmt: skip
program("many unknown objects", lambda: P2 + glob("a", "b") + b"q\0](" + b"h\0" * 300_000 + b"e.")
program("many names", lambda: P2 + b"](" + b"".join(glob("a", str(n)) for n in range(80_000)) + b"e.")


@bomb
def records(path: Path) -> None:
    archive(path, {**torch_records(), **{f"archive/{n}": b"" for n in range(8000)}})


@bomb
def arrays(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 9000 + b"), }"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    archive(path, {f"{n}.npy": head for n in range(90)})


@bomb
def minuses(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"-" * 9000 + b"1,), }"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    archive(path, {f"{n}.npy": head for n in range(90)})


@bomb
def array_dims(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9," * 4000 + b"), }"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    archive(path, {f"{n}.npy": head for n in range(90)})


@bomb
def zeros(path: Path) -> None:
    np.savez_compressed(path.with_suffix(".npz"), **{"a.weight": np.zeros(15_000_000, np.float32).reshape(1000, -1)})
    path.with_suffix(".npz").rename(path)


@bomb
def more_zeros(path: Path) -> None:
    np.savez_compressed(path.with_suffix(".npz"), **{"a.weight": np.zeros(200_000_000, np.int8)})
    path.with_suffix(".npz").rename(path)


@bomb
def packed_by_lzma(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name, data in torch_records().items():
            file.writestr(name, data)


def safetensors(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def entries(names: list[str]) -> bytes:
    found = {
        name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)
    }
    return json.dumps(found, separators=(",", ":")).encode()


@bomb
def deep_header(path: Path) -> None:
    safetensors(path, b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}")


@bomb
def header_dims(path: Path) -> None:
    shape = b",".join([b"9"] * 400_000)
    safetensors(path, b'{"a":{"dtype":"F32","shape":[' + shape + b'],"data_offsets":[0,0]}}')


@bomb
def header_numbers(path: Path) -> None:
    shape = b",".join([b"9" * 4000] * 200)
    safetensors(path, b'{"a":{"dtype":"F32","shape":[' + shape + b'],"data_offsets":[0,0]}}')


@bomb
def dotted_name(path: Path) -> None:
    safetensors(path, entries(["a." * 400_000 + "weight", "a." * 20_000 + "weight_g"]), bytes(8))


@bomb
def underlined_name(path: Path) -> None:
    safetensors(path, entries(["_" * 400_000 + "weight", "_weight" * 50_000]), bytes(8))


ENDINGS = (
    *("weight", "weight_g", "weight_v", "weight_orig", "weight_u", "weight_bar", "weight_ih_l0", "lora_A.weight"),
    *("parametrizations.weight.original0", "parametrizations.weight.0._u", "conv.weight"),
)


def many(ending: str) -> None:
    """File many tensors whose names end alike."""
    names = [f"{number}.{ending}" for number in range(7500)]
    BOMBS[f"many {ending}"] = lambda path: safetensors(path, entries(names), bytes(4 * len(names)))


for each in ENDINGS:
    many(each)


@bomb
def prefixes(path: Path) -> None:
    safetensors(path, entries([f"{'a.' * n}weight_v" for n in range(900)]), bytes(3600))


@bomb
def deep_index(path: Path) -> None:
    path.write_bytes(b'{"weight_map":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}")


@bomb
def index_of_itself(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {f"{n}": path.name for n in range(30_000)}}))


@bomb
def index_of_one_shard(path: Path) -> None:
    torch.save({"a": torch.ones(1)}, path.with_name("x.bin"))
    names = {str(n): "./" * n + "x.bin" for n in range(500)}
    path.write_text(json.dumps({"weight_map": {**names, "a": "x.bin"}}))


@bomb
def legacy(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save([], buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    path.write_bytes(data.replace(b"\x80\x02]q\x00.", P2 + b"]" * 300_000 + b"a" * 299_999 + b".", 1))


@bomb
def legacy_bytes(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save([], buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(
        buffer.getvalue().replace(b"\x80\x02]q\x00.", b"\x80\x04\x8e" + (1 << 35).to_bytes(8, "little"), 1)
    )


@bomb
def script(path: Path) -> None:
    deep = (glob("__torch__", "M") + b")R}" + text("a")) * 20_000 + b"N" + b"sb" * 20_000
    archive(path, {"a/data.pkl": P2 + deep + b".", "a/constants.pkl": P2 + b").", "a/version": b"3\n"})


@bomb
def package(path: Path) -> None:
    pickled = P2 + b"(" + b"N" * (1 << 20) + b"l."
    records = {f"a/p/{n}.pkl": pickled for n in range(40)}
    archive(path, {"a/.data/extern_modules": b"", "a/.data/version": b"6\n", **records}, deflated=True)


@bomb
def exported(path: Path) -> None:
    meta = {"dtype": 7, "sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 0}], "layout": 7, "requires_grad": True,
            "storage_offset": {"as_int": 0}}  # fmt: skip
    entry = {"path_name": "w", "is_param": True, "use_pickle": False, "tensor_meta": meta}
    config = json.dumps({"config": {"a.weight": entry}}).encode()
    archive(
        path,
        {"m/archive_format": b"pt2", "m/data/weights/w": bytes(8), "m/data/weights/model_weights_config.json": config},
    )


@bomb
def one_file_of_torch(path: Path) -> None:
    torch_file(path, P2 + b"].")
