"""What both containers of `torch.save` have in common."""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from wnconvert.errors import CheckpointError, OutputError, UnsafePickleError


def load(path: Path, *, trust: bool, mmap: bool) -> Any:
    """Return the object that `torch.load` reads from ``path``, on the CPU; without ``trust`` no code runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(os.fspath(path), map_location="cpu", weights_only=not trust, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make it raise anything at all
        if not trust and isinstance(error, pickle.UnpicklingError):
            raise _refused(path, error) from error
        raise CheckpointError(f"cannot read {str(path)!r}: {first_line(error)}") from error


def save(content: Any, path: Path, *, zipped: bool) -> None:
    """Write ``content`` with `torch.save`; the archive's inner name does not depend on the file's."""
    try:
        with path.open("wb") as file:
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
    except RuntimeError as error:
        # the archive writer hides the operating system's error behind its own
        cause = error.__context__
        reason = os.strerror(cause.errno).lower() if isinstance(cause, OSError) and cause.errno else first_line(error)
        raise OutputError(f"{reason}") from error
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise OutputError(f"{first_line(error)}") from error


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of the error's message, or its type's name where it has none."""
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _refused(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    names = _unsafe_globals(path) or re.findall(r"GLOBAL ([\w.]+)", str(error))
    if not names:
        return CheckpointError(f"cannot read {str(path)!r}: it is damaged, or holds what only code can build")
    shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return UnsafePickleError(
        f"reading {str(path)!r} would run code that it names: {shown}; if you trust where it comes from, give --trust, "
        "else save the state dict alone, torch.save(model.state_dict(), ...), and convert that"
    )


def _unsafe_globals(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(path))
    except Exception:  # noqa: BLE001 (a legacy or damaged pickle cannot be listed: the error's own text is all there is)
        return []


def disk_error(error: Exception) -> OutputError:
    """Return the error to raise where a library says only in words why it could not write."""
    found = re.search(r"os error (\d+)", str(error))
    code = int(found.group(1)) if found else 0
    return OutputError(f"{os.strerror(code).lower() if code in errno.errorcode else first_line(error)}")
