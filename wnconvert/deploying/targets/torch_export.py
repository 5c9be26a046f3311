"""``.pt2``: a program of `torch.export`, which `torch.export.load` loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.deploying.inputs import arguments, tensors_in
from wnconvert.deploying.target import DimNames, Run, Target, Written, register


@register("torch_export")
class TorchExport(Target):
    """A program in torch's own archive."""

    name = "torch_export"
    title = "torch.export"
    suffix = ".pt2"
    seeded = True

    def write(self, program: ExportedProgram, path: Path, dims: DimNames) -> Written:
        """Write the archive."""
        torch.export.save(program, path)
        return Written(tuple(program.graph_signature.parameters), {"nodes": calls_in(program)})

    def load(self, path: Path, program: ExportedProgram) -> Run:
        """Return what `torch.export.load` gives."""
        module = torch.export.load(path).module()

        def run(values: Sequence[Any]) -> list[Tensor]:
            args, kwargs = arguments(program, values)
            return tensors_in(module(*args, **kwargs))

        return run


def calls_in(program: ExportedProgram) -> int:
    """Return how many ops a program calls."""
    return sum(node.op == "call_function" for node in program.graph.nodes)
