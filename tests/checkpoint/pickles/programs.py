"""Pickles written by hand, and the two ways to read them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from wnconvert.checkpoint import Checkpoint, load


def read_inert(path: Path) -> Checkpoint:
    return load(path, modules="state_dict")


#: both ways to read a file that is not trusted.
Reader: TypeAlias = Callable[[Path], Checkpoint]
READERS = [pytest.param(load, id="refusing"), pytest.param(read_inert, id="inert")]


def torch_file(path: Path, program: bytes) -> Path:
    """Write a file of torch whose pickle is the given program."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/version", "3\n")
    return path


def line(*names: str) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def doubling(operation: bytes, times: int = 60) -> bytes:
    """Return a program for tuples of two equal tuples of two equal tuples, and so on."""
    return b"\x80\x02})" + b"2\x86" * times + operation
