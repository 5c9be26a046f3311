"""The header of a safetensors file, read and checked without torch: names, dtypes, shapes and places of the tensors.

8 bytes: length of the header, little endian | the header, JSON | the tensors, without gaps
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from wnconvert.checkpoint.storage.limits import DIMS
from wnconvert.errors import CheckpointError

#: the library refuses longer headers.
LONGEST = 100_000_000
METADATA = "__metadata__"
#: bits of one element by dtype, in the order in which the library writes them: the last first.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True)
class Place:
    """One tensor of a file: its dtype as the header spells it, its shape, and the bytes of the file that it takes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def begins(start: bytes) -> bool:
    """Return whether the first bytes of a file are the length of a header and an opening brace."""
    return start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") <= LONGEST


def read(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the places of the tensors by name, and the metadata.

    Raises:
        CheckpointError: the header is not that of a safetensors file, or lies about what is in it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(LONGEST, size - 8):
            raise _damaged(path, f"a header of {length} bytes does not fit in")
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
        metadata = header.pop(METADATA, None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not all texts")
        places = {name: _place(name, entry, 8 + length) for name, entry in header.items()}
        _check_cover(places, 8 + length, size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return places, dict(metadata)


def build(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Return the first bytes of a file, as the library writes them, and the names in the order of their data.

    Args:
        tensors: dtype and shape by name.
        metadata: texts.
    """
    rank = {dtype: index for index, dtype in enumerate(BITS)}
    names = sorted(tensors, key=lambda name: (-rank[tensors[name][0]], name.encode(errors="surrogatepass")))
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        dtype, shape = tensors[name]
        begin, end = end, end + prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.100} occurs twice")
        found[key] = value
    return found


def _place(name: str, entry: Any, start: int) -> Place:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in BITS:
        raise ValueError(f"{name!r:.100} has the unknown dtype {dtype!r:.100}")
    if not isinstance(shape, list) or len(shape) > DIMS:
        raise ValueError(f"{name!r:.100} has no shape of at most {DIMS} dims")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name!r:.100} has no proper shape or place")
    if prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise ValueError(f"{name!r:.100} does not have the size that its shape and dtype make")
    return Place(dtype, tuple(shape), start + begin, start + end)


def _check_cover(places: Mapping[str, Place], start: int, size: int) -> None:
    """Check that the tensors take all bytes once: what lies between them, or under two, is no tensor's."""
    reached = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != reached:
            raise ValueError(f"{name!r:.100} does not begin where the one before it ends")
        reached = place.end
    if reached != size:
        raise ValueError(f"its tensors end at byte {reached}, but the file at {size}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{str(path)!r} is cut short or damaged: {what}")
