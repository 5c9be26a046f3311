"""TorchScript archives (`torch.jit.save`): their weights are read, their code is not.

The archive holds an object tree of modules of its own making. It is rebuilt from stand-ins: objects with attributes
and no behaviour. No code of the archive runs, and none of its classes is looked up.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats._torch import first_line
from wnconvert.checkpoint.formats._zip import Archive
from wnconvert.checkpoint.tree import DEEPEST
from wnconvert.errors import CheckpointError, OutputError

WAY_OUT = "save its weights and convert those: torch.save(torch.jit.load(path).state_dict(), ...)"


@register
class TorchScriptFormat(Format):
    """A TorchScript archive, of which the weights alone are read."""

    name = "torchscript"
    title = "TorchScript"
    suffixes = (".pt", ".pth", ".ts", ".torchscript")
    annotated = False
    not_written = "its code computes with the weights as they are; give --format torch_zip to write the weights alone"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is a zip archive with constants beside its data."""
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        try:
            names = Archive(path).names
        except CheckpointError:
            return False
        return {"data.pkl", "constants.pkl"} <= {name.partition("/")[2] for name in names}

    def read(self, path: Path, *, trust: bool = False) -> Checkpoint:
        """Return the tensors of all modules by dotted name, mapped from the file."""
        archive = Archive(path)
        folder = next(name for name in archive.names if name.endswith("/constants.pkl")).partition("/")[0]
        try:
            root = _Unpickler(archive, folder).load()
            content = OrderedDict(_tensors(root, ""))
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file can make it raise anything at all
            raise CheckpointError(
                f"{str(path)!r} is a TorchScript archive that cannot be read without its code "
                f"({first_line(error, 80)}); {WAY_OUT}"
            ) from error
        return Checkpoint(content, self.name)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Refuse: the code of the archive would not know the new weights."""
        raise OutputError(f"a TorchScript archive cannot be written: {self.not_written}")


class _Object:
    """Stands for a module of the archive."""


class _Unpickler(pickle.Unpickler):
    """Builds stand-ins, tensors and plain data; refuses whatever else is named."""

    def __init__(self, archive: Archive, folder: str) -> None:
        super().__init__(io.BytesIO(archive.data(f"{folder}/data.pkl")))
        self._archive = archive
        self._folder = folder
        self._storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the pickle."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Object
        if module == "torch.jit._pickle":
            return _first
        if module == "torch" and name.endswith("Storage"):
            return _dtype_of(name)
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        """Return a storage and the dtype of its elements."""
        _, dtype, key, *_ = pid
        if key not in self._storages:
            self._storages[key] = self._archive.storage(f"{self._folder}/data/{key}")
        return self._storages[key], dtype


def _first(data: Any, *_: Any) -> Any:
    return data


def _dtype_of(storage_class: str) -> torch.dtype:
    names = {name: dtype for dtype, name in torch.storage._dtype_to_storage_type_map().items()}
    if storage_class not in names:
        raise pickle.UnpicklingError(f"it names torch.{storage_class}")
    return names[storage_class]


def _tensor(place: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    storage, dtype = place
    return torch.empty(0, dtype=dtype).set_(storage, offset, tuple(size), tuple(stride))


def _tensors(module: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST:
        raise CheckpointError(f"the modules are nested more than {DEEPEST} deep")
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Object):
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)
