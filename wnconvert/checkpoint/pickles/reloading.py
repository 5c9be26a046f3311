"""What was written without `torch.save`, read by `torch.load`: so it is known that others can.

Without trust, names are looked up as `calls` does it: no code runs. The file is ours, made of what `machine` has let
through, so what makes `torch.load` take forever is not in it.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import torch

from wnconvert.checkpoint.pickles import calls
from wnconvert.checkpoint.pickles.inert import Unknown
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage.paths import spelled
from wnconvert.errors import CheckpointError


class _Unpickler(pickle.Unpickler):
    """Python's own, which looks up nothing but what is harmless."""

    def find_class(self, module: str, name: str) -> Any:
        found = calls.find(module, name)
        if isinstance(found, Unknown):
            raise pickle.UnpicklingError(f"it names {found.name}")
        return found


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()


#: what `torch.load` takes in the place of the module ``pickle``
_harmless = ModuleType("pickle")
_harmless.Unpickler, _harmless.load = _Unpickler, _load  # type: ignore[attr-defined]


def reload(path: Path, *, mmap: bool) -> Any:
    """Return what `torch.load` reads from a file that was just written, on the CPU.

    Args:
        path: the file.
        mmap: map its tensors.

    Raises:
        CheckpointError: it refuses the file.
    """
    try:
        with warnings.catch_warnings(), spelled(path) as name:
            warnings.simplefilter("ignore")
            return torch.load(name, map_location="cpu", pickle_module=_harmless, weights_only=False, mmap=mmap)
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(f"torch.load refuses it: {first_line(error)}") from error
