"""What both containers of `torch.save` have in common."""

from __future__ import annotations

import contextlib
import pickle
import warnings
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch

from wnconvert.checkpoint.pickles.inert import unknown_names
from wnconvert.checkpoint.storage.paths import spelled
from wnconvert.errors import CheckpointError, OutputError, UnsafePickleError


def load(path: Path, *, trust: bool, mmap: bool, inert: Callable[[], Any]) -> Any:
    """Return the object that `torch.load` reads from ``path``, on the CPU; without ``trust`` no code runs.

    Args:
        path: the file.
        trust: run the code that it names.
        mmap: map its tensors, if it is trusted.
        inert: reads it without `torch.load`, which even with ``weights_only`` computes hashes that take forever, and
            hands NumPy what makes it crash.
    """
    if not trust:
        content = inert()
        if names := unknown_names(content):
            raise _refused(path, names)
        return content
    try:
        with warnings.catch_warnings(), spelled(path) as name:
            warnings.simplefilter("ignore")
            return torch.load(name, map_location="cpu", weights_only=False, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make it raise anything at all
        raise CheckpointError(f"cannot read {str(path)!r}: {first_line(error)}") from error


@cache
def harmless() -> list[Any]:
    """Return what is read besides tensors and plain data: classes and functions that only make data of data."""
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSUMm"}
    old = [(scalar, "numpy.core.multiarray.scalar"), (reconstruct, "numpy.core.multiarray._reconstruct")]
    paths = [(PosixPath, name) for name in ("pathlib.PosixPath", "pathlib._local.PosixPath")]
    return [Namespace, np.ndarray, np.dtype, scalar, reconstruct, *old, *dtypes, *paths]


@contextlib.contextmanager
def unpicklable() -> Iterator[None]:
    """Give what unknown classes raise when they are pickled its reason as an `OutputError`."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise OutputError(f"{first_line(error)}") from error


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of the error's message, or its type's name where it has none."""
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _refused(path: Path, names: Collection[str]) -> CheckpointError:
    shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return UnsafePickleError(
        f"reading {str(path)!r} would run code that it names: {shown}; give --state-dict to read whole modules as "
        "their state dicts, without their code, or --trust if you trust where the file comes from"
    )
