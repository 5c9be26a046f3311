"""safetensors, https://github.com/huggingface/safetensors: a JSON header and raw tensors; no code, no nesting.

The library orders the entries itself, by dtype and then by name, so the order of the keys carries no meaning. It reads
a file lazily but writes it from memory only; so the writing is done here, tensor by tensor, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage import safetensors_header as header
from wnconvert.checkpoint.storage.chunks import chunks, mapped
from wnconvert.checkpoint.storage.flat import named_tensors
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.checkpoint.storage.output import Output
from wnconvert.checkpoint.storage.paths import spelled
from wnconvert.errors import CheckpointError, OutputError

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
#: the dtypes of which torch has tensors with as many elements as the header says.
KINDS = {name: dtype for dtype, name in DTYPES.items()}


@register
class SafetensorsFormat(Format):
    """A single safetensors file."""

    name = "safetensors"
    title = "safetensors"
    suffixes = (".safetensors", ".sft")
    flat = True
    ordered = False
    tagged = True

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file begins with the length of a header and an opening brace."""
        return header.begins(opened.start)

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the tensors by name, mapped from the file; there is no code in such a file to trust."""
        content, metadata = read_file(opened.path)
        return Checkpoint(content, self.name, metadata)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write the tensors one after the other, and the metadata."""
        write_file(named_tensors(checkpoint.content, self.title, why_not), checkpoint.metadata, path)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by name, and its metadata.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with spelled(path) as spelling, safe_open(spelling, framework="pt", device="cpu") as file:
            places, metadata = header.read(path)  # mapping a tensor takes a quarter of the time that asking for it does
            whole = mapped(path, path.stat().st_size)
            content = {
                name: _tensor(whole, place) if (place := places[name]).dtype in KINDS else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 (it is no mapping)
            }
            return content, metadata
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # a damaged file can make it raise anything at all
        raise CheckpointError(f"{str(path)!r} is cut short or damaged: {first_line(error)}") from error


def _tensor(whole: Any, place: header.Place) -> Tensor:
    made: Any = torch.empty(0, dtype=KINDS[place.dtype])
    tensor: Tensor = made.set_(whole[place.begin : place.end], 0, place.shape)
    return tensor


def write_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a file, one tensor at a time.

    Raises:
        OutputError: such a file cannot hold one of the tensors.
        OSError: there is no room.
    """
    try:
        start, names = header.build({name: (DTYPES[t.dtype], tuple(t.shape)) for name, t in tensors.items()}, metadata)
    except UnicodeEncodeError as error:
        raise OutputError(f"safetensors cannot hold this content: {first_line(error)}") from error
    with Output(path) as file:
        file.write(start)
        for name in names:
            for chunk in chunks(tensors[name]):
                file.write(chunk)


def why_not(name: str, tensor: Tensor) -> str | None:
    """Return why a file cannot hold a tensor, or None."""
    if name == header.METADATA:
        return "is the name of its metadata"
    if tensor.dtype not in DTYPES:
        return f"has dtype {str(tensor.dtype).removeprefix('torch.')}"
    if not tensor.is_contiguous():
        return "is not contiguous; save tensor.contiguous() instead"
    return None
