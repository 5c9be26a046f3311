"""NumPy's ``.npz``: a zip archive of arrays, one record each. Arrays that are stored as they are, are mapped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage import zip_archive
from wnconvert.checkpoint.storage.chunks import chunks
from wnconvert.checkpoint.storage.flat import named_tensors
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.checkpoint.storage.output import Output
from wnconvert.errors import CheckpointError, UnsafePickleError

SUFFIX = ".npy"
#: arrays of at most so many bytes are read by NumPy when they were written, all of each; of others, their names.
SMALL = 1 << 12


@register
class NpzFormat(Format):
    """An archive of NumPy arrays."""

    name = "npz"
    title = "NumPy npz"
    suffixes = (".npz",)
    flat = True
    annotated = False

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file is a zip archive of ``.npy`` records, or the beginning of one."""
        return bool(opened.records) and all(name.endswith(SUFFIX) for name in opened.records)

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the arrays by name, as tensors. Arrays of objects are pickles, which are never read."""
        archive = opened.archive
        content = {}
        for name in archive.names:
            key = name.removesuffix(SUFFIX)
            try:
                content[key] = _tensor(archive, name)
            except (CheckpointError, OSError):
                raise
            except Exception as error:  # a damaged file can make it raise anything at all
                raise CheckpointError(f"{str(opened.path)!r} is damaged: {key!r}: {first_line(error)}") from error
        return Checkpoint(content, self.name, checks=(archive.check,))

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the arrays, mapped, after `numpy.load` has found the same names, and read what is small."""
        checkpoint = self.read(opened)
        try:
            with np.load(opened.path, allow_pickle=False) as file:
                if list(file) != list(checkpoint.content):
                    raise ValueError("it finds other names")
                for key, tensor in checkpoint.content.items():
                    if tensor.nbytes <= SMALL:
                        file[key]
        except OSError:
            raise
        except Exception as error:
            raise CheckpointError(f"numpy.load refuses it: {first_line(error)}") from error
        return checkpoint

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the tensors one after the other."""
        tensors = named_tensors(checkpoint.content, self.title, _why_not)
        with Output(path) as file, zip_archive.writable(file) as archive:
            for name, tensor in tensors.items():
                head = _header(tensor)
                size = len(head) + tensor.numel() * tensor.element_size()
                zip_archive.add(
                    archive, file, name + SUFFIX, (data for part in ([head], chunks(tensor)) for data in part), size
                )


def _tensor(archive: zip_archive.Archive, name: str) -> Tensor:
    storage = archive.storage(name)
    head = io.BytesIO(_bytes(storage[: min(storage.nbytes(), 1 << 16)]).numpy().tobytes())
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(head)
    if dtype.hasobject:
        raise UnsafePickleError(
            f"{str(archive.path)!r} holds objects ({name!r}), and reading those runs code; leave them out"
        )
    if not dtype.isnative:
        raise CheckpointError(f"{str(archive.path)!r} holds numbers of foreign byte order ({name!r}); convert them")
    start, size = head.tell(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if start + size != storage.nbytes():
        raise CheckpointError(f"{str(archive.path)!r} is damaged: {name!r} does not have the size that it claims")
    kind = torch.from_numpy(np.empty(0, dtype)).dtype  # a TypeError for what is no number
    strides = torch.empty(tuple(reversed(shape)) if fortran else shape, device="meta").stride()
    data = storage[start:] if size else torch.empty(0).untyped_storage()
    return torch.empty(0, dtype=kind).set_(data, 0, shape, tuple(reversed(strides)) if fortran else strides)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _why_not(name: str, tensor: Tensor) -> str | None:
    if (reason := zip_archive.why_no_name(name + SUFFIX)) is not None:
        return reason
    try:
        torch.empty(0, dtype=tensor.dtype).numpy()
    except TypeError:
        return f"has dtype {str(tensor.dtype).removeprefix('torch.')}, which NumPy has not"
    if not (tensor.is_contiguous() or _fortran(tensor)):
        return "is not contiguous; save tensor.contiguous() instead"
    return None


def _fortran(tensor: Tensor) -> bool:
    backwards = torch.empty(tuple(reversed(tensor.shape)), device="meta").stride()
    return tensor.stride() == tuple(reversed(backwards))


def _header(tensor: Tensor) -> bytes:
    dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    fields: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": not tensor.is_contiguous(),
        "shape": tuple(tensor.shape),
    }
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()
