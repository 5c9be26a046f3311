"""The archive of `torch.export.save` (``.pt2``): taken as an archive of weights, or as the program that it holds.

Each weight is a record of raw bytes, described in JSON. Nothing is unpickled. A program is loaded by torch, see
`wnconvert.checkpoint.formats._programs`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.checkpoint.format import Checkpoint, Format, register
from wnconvert.checkpoint.formats import _programs
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage.opened import Opened
from wnconvert.errors import CheckpointError

CONFIG = "_weights_config.json"
#: numbers of torch._export.serde.schema.ScalarType.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
    33: torch.float8_e8m0fnu,
    34: torch.uint32,
    35: torch.uint64,
}
STRIDED = 7


@register
class TorchExportFormat(Format):
    """A torch.export archive, of which the weights are read; written is a program that was read as such."""

    name = "torch_export"
    title = "torch.export"
    suffixes = (".pt2",)
    ordered = False
    annotated = False
    programs = True
    not_written = "its graph computes with the weights as they are; give --format torch_zip to write the weights alone"

    def recognises(self, opened: Opened) -> bool:
        """Return whether the file is a zip archive that says that it is one of torch.export."""
        return opened.has("archive_format") or opened.has("serialized_exported_program.json")

    def read(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the weights by dotted name, mapped from the file."""
        archive = opened.archive
        configs = [name for name in archive.names if name.endswith(CONFIG)]
        if len(configs) != 1:
            kind = "several models" if configs else "an older kind"
            raise CheckpointError(
                f"{str(opened.path)!r} is a torch.export archive of {kind}; save its weights and convert "
                "those: torch.save(torch.export.load(path).state_dict, ...)"
            )
        folder = configs[0].rpartition("/")[0]
        try:
            entries = json.loads(archive.data(configs[0]))["config"]
            storages = {
                entry["path_name"]: archive.storage(f"{folder}/{entry['path_name']}") for entry in entries.values()
            }
            content = OrderedDict((name, _tensor(name, entry, storages)) for name, entry in entries.items())
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file can make it raise anything at all
            raise CheckpointError(f"{str(opened.path)!r} is damaged: {first_line(error)}") from error
        return Checkpoint(content, self.name, checks=(archive.check,))

    def read_program(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the program, in memory."""
        return Checkpoint(_programs.load(opened, trust=trust), self.name)

    def read_back(self, opened: Opened, *, trust: bool = False) -> Checkpoint:
        """Return the program that was written."""
        return self.read_program(opened, trust=trust)

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write a program; weights alone are none."""
        if not isinstance(checkpoint.content, ExportedProgram):
            super().write(checkpoint, path)
        _programs.save(checkpoint.content, path)


def _tensor(name: str, entry: Any, storages: dict[str, torch.UntypedStorage]) -> Tensor:
    meta = entry["tensor_meta"]
    if entry.get("use_pickle") or meta["layout"] != STRIDED or meta["dtype"] not in DTYPES:
        raise ValueError(f"{name!r} is not stored as a plain tensor")
    size, stride = ([number["as_int"] for number in meta[key]] for key in ("sizes", "strides"))
    tensor, storage = torch.empty(0, dtype=DTYPES[meta["dtype"]]), storages[entry["path_name"]]
    if storage.nbytes() % tensor.element_size():
        raise ValueError(f"{name!r} has {storage.nbytes()} bytes, which are no whole number of elements")
    tensor = tensor.set_(storage, meta["storage_offset"]["as_int"], size, stride)
    return torch.nn.Parameter(tensor, meta["requires_grad"]) if entry["is_param"] else tensor
