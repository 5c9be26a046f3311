"""The numbers of each weight of an ONNX file, as of those of a checkpoint; this takes torch.

What reads the file, and computes the weights that are computed, is confined. It leaves them in files, one a weight.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from wnconvert.checkpoint.storage.opened import require_file
from wnconvert.onnx_files.confined import confined
from wnconvert.onnx_files.conversion import files_of
from wnconvert.onnx_files.needed import require_extra

if TYPE_CHECKING:
    import onnx_ir as ir

    from wnconvert.checkpoint.comparing.effective import Effective

#: torch's names of the dtypes of weights
DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}
#: what else than the first dim tells channels, by op and operand: the output dims of recurrent layers and products
_KEPT = {"LSTM": (0, 1), "GRU": (0, 1), "RNN": (0, 1)}


@dataclass(frozen=True)
class _Left:
    """One weight that was left in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scheme: str | None
    kept: tuple[int, ...]


@contextmanager
def effective(path: Path) -> Iterator[list[Effective]]:
    """Give the weights that a file makes a model compute with, biases left out.

    Raises:
        CheckpointError: the file cannot be read.
    """
    import torch

    from wnconvert.checkpoint.comparing.effective import Effective

    require_extra()
    require_file(path)
    with tempfile.TemporaryDirectory(prefix="wnconvert-") as folder:
        left: list[_Left] = confined(f"{__name__}:_leave", files_of(path), path, Path(folder))
        found = []
        for index, each in enumerate(left):
            dtype, size = getattr(torch, each.dtype), prod(each.shape)
            flat = torch.from_file(str(Path(folder) / str(index)), shared=False, size=size, dtype=dtype)
            spelled = "plain" if each.scheme is None else "expression"
            found.append(Effective((), each.name, spelled, flat.view(each.shape), each.scheme, each.kept, read=True))
        yield found


def _leave(path: Path, folder: Path) -> list[_Left]:
    """Write the weights of a file into a folder, each under its number."""
    from wnconvert.onnx_files.expressions import find_weights
    from wnconvert.onnx_files.folding import FoldWeightsPass
    from wnconvert.onnx_files.reading import read

    model = read(path).model
    result = FoldWeightsPass()(model)
    computed = {entry.fqn: entry.scheme for entry in result.report.converted}  # type: ignore[attr-defined]
    found: list[_Left] = []
    for weight in find_weights(model).weights:
        tensor = weight.value.const_value
        if weight.is_bias or tensor is None or tensor.dtype.name not in DTYPES or len(tensor.shape) < 2:
            continue
        if not tensor.size:
            continue
        (folder / str(len(found))).write_bytes(tensor.tobytes())
        name = weight.value.name or ""
        kept = _kept(*weight.sites[0], len(tensor.shape))
        shape = tuple(tensor.shape.numpy())
        found.append(_Left(name, shape, DTYPES[tensor.dtype.name], computed.get(name), kept))
    return found


def _kept(node: ir.Node, index: int, rank: int) -> tuple[int, ...]:
    """Return the dims by which the channels of an operand are told."""
    if node.op_type == "MatMul":
        return (rank - 1,) if index == 1 else (max(rank - 2, 0),)
    if node.op_type == "Gemm":
        turned = bool(node.attributes.get_int("transB" if index == 1 else "transA", 0))
        return (0,) if turned == (index == 1) else (1,)
    return _KEPT.get(node.op_type, (0,))
