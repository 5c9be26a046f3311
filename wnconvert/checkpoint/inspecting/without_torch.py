"""Inspecting a safetensors file without torch, whose import takes longer than all the rest."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from wnconvert.checkpoint.content.names import is_weight_name
from wnconvert.checkpoint.inspecting.normalized import Recorded, normalized_weights
from wnconvert.checkpoint.inspecting.summary import StateDictSummary
from wnconvert.checkpoint.storage import safetensors_header as header
from wnconvert.checkpoint.storage.opened import Opened

#: torch's names of what the header calls otherwise than by a letter and a number of bits.
NAMES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}
KINDS = {"U": "uint", "I": "int", "F": "float"}
#: how the bits of a number are laid out: an integer of that size, all but the sign, and the exponent.
LAYOUTS: dict[str, tuple[Any, int, int]] = {
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
}
#: bytes that are looked at together.
BLOCK = 1 << 24


def inspect_without_torch(path: Path) -> tuple[StateDictSummary | None, dict[str, str]] | None:
    """Return the summary and the metadata of a safetensors file, or None where it takes torch to say more.

    The summary is None where the file holds no tensors.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file() or not header.begins(Opened(path).start):
        return None
    places, metadata = header.read(path)
    recorded = _recorded(metadata)
    if recorded is None:
        return None
    if not places:
        return None, metadata
    weights, folded = recorded
    summary = _summary(path, places, weights)
    return replace(summary, folded=dict(Counter(folded[key] for key in sorted(places) if key in folded))), metadata


def dtype_name(dtype: str) -> str:
    """Return torch's name of a dtype that the header of a file names."""
    return NAMES.get(dtype) or KINDS[dtype[0]] + dtype[1:].lower()


def _recorded(metadata: Mapping[str, str]) -> tuple[Recorded, dict[str, str]] | None:
    """Return what the file's manifest describes, or None where it cannot be understood.

    That is the kept dims of the weights that were split, and the schemes of those that were folded.
    """
    try:
        manifest = json.loads(metadata.get("wnconvert", '{"version": 1, "weights": {}}'))
        kept = {fqn: tuple(int(dim) for dim in dims) for fqn, (_, dims) in manifest["weights"].items()}
        schemes = [str(way["scheme"]) for way in manifest.get("ways", [])]
        folded = {fqn: schemes[index] for fqn, index in manifest.get("folded", {}).items()}
        return (kept, folded) if manifest["version"] == 1 else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _summary(path: Path, places: Mapping[str, header.Place], recorded: Recorded) -> StateDictSummary:
    keys = sorted(places)  # as the library gives them
    seen = normalized_weights({key: tuple(places[key].shape) for key in keys}, recorded)
    plain = [key for key in keys if key not in seen.taken and is_weight_name(key) and _is_matrix(places[key])]
    with path.open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    counts = {key: _channels(data, places[key]) for key in (*plain, *seen.telling)}
    return StateDictSummary(
        path="",
        tensors=len(places),
        others=0,
        dtypes=dict(Counter(dtype_name(places[key].dtype) for key in keys)),
        bytes=sum(place.end - place.begin for place in places.values()),
        schemes=seen.schemes,
        unknown=seen.unknown,
        plain=tuple(plain),
        zero={key: zero for key, (zero, _) in counts.items() if zero},
        non_finite={key: wrong for key, (_, wrong) in counts.items() if wrong},
        recorded=seen.recorded,
        layouts=seen.layouts,
        kept=seen.kept,
        saved=sum(places[key].end - places[key].begin for key in seen.spared),
        adapter=seen.adapter,
    )


def _is_matrix(place: header.Place) -> bool:
    return place.dtype[0] in "FB" and place.dtype != "BOOL" and len(place.shape) >= 2


def _channels(data: np.ndarray[Any, np.dtype[np.uint8]], place: header.Place) -> tuple[int, int]:
    """Return how many channels of the first dim are zero throughout, and how many have a NaN or an infinity."""
    if place.dtype not in LAYOUTS or not place.shape or not prod(place.shape):
        return 0, 0
    integer, magnitude, exponent = LAYOUTS[place.dtype]
    rows = data[place.begin : place.end].view(integer).reshape(place.shape[0], -1)
    step = max(1, BLOCK // (rows.shape[1] * rows.itemsize))
    zero = wrong = 0
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        zero += int(((block & integer(magnitude)) == 0).all(axis=1).sum())
        wrong += int(((block & integer(exponent)) == exponent).any(axis=1).sum())
    return zero, wrong
