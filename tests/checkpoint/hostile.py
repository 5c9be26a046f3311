"""What files are made of that were made to do harm, and how they are read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings, strategies as st

from tests.checkpoint.conftest import CASES
from wnconvert.errors import WnconvertError

fuzz = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


def archive(path: Path, records: dict[str, bytes], *, deflated: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return path


def torch_records() -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.ones(4, 4)}, buffer)
    with zipfile.ZipFile(buffer) as file:
        return {name: file.read(name) for name in file.namelist()}


NUMBERS = st.one_of(st.integers(0, 20), st.sampled_from([-1, 1 << 31, 1 << 62, 1 << 64, 1.5, True, None, "8", []]))


def attempt(read: Callable[[Path], object], path: Path) -> object:
    """Return what a file is read as, or the error on purpose, which has one line; no other error is let through."""
    try:
        return read(path)
    except WnconvertError as error:
        refused = error
    assert "\n" not in str(refused)
    return refused
