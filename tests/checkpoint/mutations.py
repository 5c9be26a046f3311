"""Sound files of every container, and changes to them that know how such files are built."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

#: the files of a folder by name.
Files: TypeAlias = dict[str, bytes]

NUMBERS = (-1, 0, 1, 2, 3, 7, 127, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 64)
TEXTS = ("", "a", "a.weight", "weight_g", "\ud800", "../x", "/dev/null", "a" * 3000, "\0", "__metadata__", "F32", "é")
OPERATIONS = [each.code.encode("latin-1") for each in pickletools.opcodes]
#: of zip headers, where each field is and how long it is: of the local one, of the entry in the directory, of its end.
FIELDS = {
    b"PK\x03\x04": [(4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)],
    b"PK\x01\x02": [(6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)],
    b"PK\x05\x06": [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
}


def mutated(files: Files, rng: random.Random) -> Files:
    """Return a folder with one to three changes."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not files:
            break
        name = rng.choice(list(files))
        if rng.random() < 0.04 and len(files) > 1:
            _change_folder(files, name, rng)
        else:
            files[name] = change(files[name], rng)
    return files


def change(data: bytes, rng: random.Random) -> bytes:
    """Return a file with one change: of what it is made of, or of its bytes."""
    if rng.random() < 0.75:
        for is_one, changed in KINDS:
            if is_one(data):
                try:
                    return changed(data, rng)
                except Exception:  # noqa: BLE001 (an earlier change has made it something else)
                    break
    return change_bytes(data, rng)


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, add, remove or repeat bytes anywhere."""
    start, length = rng.randrange(len(data) + 1), rng.choice((0, 1, 1, 2, 4, 8, 64))
    new = rng.choice(
        (
            rng.randbytes(length),
            b"",
            data[start : start + length] * 2,
            struct.pack("<Q", rng.choice(NUMBERS) % (1 << 64)),
            bytes(length),
            b"\xff" * length,
        )
    )
    if rng.random() < 0.1:
        return data[:start]
    return data[:start] + new + data[start + length :]


def change_pickle(data: bytes, rng: random.Random) -> bytes:
    """Change the operations of a pickle, or of several after one another."""
    parts, start = [], 0
    while start < len(data) and data[start : start + 1] == b"\x80":
        places = [place for _, _, place in pickletools.genops(data[start:])]
        end = start + places[-1] + 1
        parts += [data[start + a : start + b] for a, b in zip(places, [*places[1:], end - start], strict=True)]
        start = end
    rest = data[start:]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if parts:
            _change_operations(parts, rng)
    return b"".join(parts) + rest


def _change_operations(parts: list[bytes], rng: random.Random) -> None:
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    operation = rng.choice(OPERATIONS)
    parts[at : at + 1] = rng.choice(
        (
            [],
            [parts[at], parts[other]],
            [parts[other]],
            [operation + parts[at][1:]],
            [operation + rng.randbytes(rng.choice((0, 0, 1, 4))), parts[at]],
            [_pushed(rng)],
            [_pushed(rng)],
            [parts[at]] * rng.choice((2, 3, 50, 1500)),
            [change_bytes(parts[at], rng)],
        )
    )


def _pushed(rng: random.Random) -> bytes:
    value = rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), None, True, 1.5, (), [], {}, (1, 2), b"ab", 1 << 2000))
    if rng.random() < 0.2:
        return b"c" + rng.choice((b"torch\nqint8", b"torch\nfloat64", b"torch\nTensor", b"collections\nCounter",
                                  b"torch._utils\n_rebuild_qtensor", b"torch._utils\n_rebuild_sparse_tensor",
                                  b"torch\nHalfStorage", b"posix\nmkdir", b"builtins\nset", b"numpy\nndarray",
                                  b"torch._utils\n_rebuild_parameter_with_state", b"torch\nComplexDoubleStorage",
                                  b"torch._tensor\n_rebuild_from_type_v2", b"torch\nQInt8Storage")) + b"\n"  # fmt: skip
    return pickle.dumps(value, 2)[2:-1]


def change_zip(data: bytes, rng: random.Random) -> bytes:
    """Change a field of the headers, a record, or which records there are."""
    kind = rng.randrange(10)
    if kind < 3:
        magic = rng.choice(list(FIELDS))
        places = [at for at in range(len(data) - 21) if data.startswith(magic, at)]
        offset, size = rng.choice(FIELDS[magic])
        at = rng.choice(places) + offset
        return data[:at] + (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :]
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        records = [(info, file.read(info)) for info in file.infolist()]
    at = rng.randrange(len(records))
    info, content = records[at]
    if kind < 7:
        records[at] = info, change(content, rng)
    elif kind == 7:
        del records[at]
    elif kind == 8:
        other = rng.randrange(len(records))
        records[at], records[other] = (info, records[other][1]), (records[other][0], content)
    else:
        info.filename = rng.choice((info.filename + "x", "x" + info.filename, "é", "a/data.pkl", ".npy", "x/" * 50))
    buffer = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", method) as file:
        for info, content in records:
            file.writestr(info.filename, content)
    return buffer.getvalue()


def change_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change what the header says."""
    length = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + length], rng)
    if rng.random() < 0.7:
        header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def change_json(data: bytes, rng: random.Random) -> bytes:
    """Change a value, a key, or the number of either."""
    root = [json.loads(data)]
    places: list[tuple[Any, Any]] = []
    rest: list[Any] = [root]
    while rest:
        node = rest.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                rest.append(node[key])
    node, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0 and node is not root:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice(TEXTS)] = node.pop(key)
    elif kind == 2:
        other, name = rng.choice(places)
        node[key] = json.loads(json.dumps(other[name]))
    elif kind == 3 and isinstance(node[key], int):
        node[key] += rng.choice((-1, 1, 4, 1000))
    else:
        values = (*NUMBERS, *TEXTS, None, True, 1.5, float("nan"), [], {}, [[]], {"a": 1}, 10**400)
        node[key] = rng.choice(values)
    if rng.random() < 0.05:
        node[key] = json.loads("[" * 500 + "]" * 500)
    return json.dumps(root[0], ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")


def _change_folder(files: Files, name: str, rng: random.Random) -> None:
    kind, other = rng.randrange(4), rng.choice(list(files))
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[name], files[other] = files[other], files[name]
    elif kind == 2:
        files[name + rng.choice((".bak", "\udc80", "x" * 100))] = files[name]
    else:
        files[f"{name}{rng.choice(SPECIAL)}"] = files.pop(name)


#: how names end of what is no regular file
SPECIAL = ("=fifo", "=folder", "=loop", "=endless", "=outside")


def _is_json(data: bytes) -> bool:
    return data[:1] == b"{"


KINDS: list[tuple[Callable[[bytes], bool], Callable[[bytes, random.Random], bytes]]] = [
    (lambda data: data.startswith(b"PK"), change_zip),
    (lambda data: data[8:9] == b"{", change_safetensors),
    (_is_json, change_json),
    (lambda data: data[:1] == b"\x80", change_pickle),
]


def read_files(folder: Path) -> Files:
    """Return the files of a folder and its subfolders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_files(files: Files, folder: Path) -> None:
    """Write a folder; names may say that what is there is no regular file."""
    for full, data in files.items():
        name, *changes = full.split("=")
        special = changes[-1] if changes else ""
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        if special == "fifo":
            os.mkfifo(path)
        elif special == "folder":
            path.mkdir()
        elif special:
            path.symlink_to({"loop": path.name, "endless": "/dev/zero", "outside": "/etc/hostname"}[special])
        else:
            path.write_bytes(data)
