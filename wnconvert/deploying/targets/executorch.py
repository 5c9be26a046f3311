"""``.pte``: a program of ExecuTorch, whose XNNPACK delegate takes in what it can, https://pytorch.org/executorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.deploying.inputs import tensors_in
from wnconvert.deploying.target import DimNames, Run, Target, Written, register

#: what a call of a delegate is named in the graph
_DELEGATE = "executorch_call_delegate"


@register("executorch")
class ExecuTorch(Target):
    """A program for phones and the like."""

    name = "executorch"
    title = "ExecuTorch"
    suffix = ".pte"
    needs = ("executorch",)

    def write(self, program: ExportedProgram, path: Path, dims: DimNames) -> Written:
        """Lower the program to XNNPACK, and write it."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        names = [getattr(n.target, "__name__", str(n.target)) for n in lowered.exported_program().graph.nodes]
        delegates = sum(_DELEGATE in name for name in names)
        left = sum("convolution" in name or "linear" in name or "addmm" in name for name in names)
        path.write_bytes(lowered.to_executorch().buffer)
        return Written((), {"delegates": delegates, "layers not delegated": left})

    def load(self, path: Path, program: ExportedProgram) -> Run:
        """Return the method of the program, run by the runtime's bindings."""
        from executorch.runtime import Runtime

        loaded = Runtime.get().load_program(path)
        method = loaded.load_method("forward")

        def run(values: Sequence[Any]) -> list[Tensor]:
            # the tensors that come back are in memory which the next run writes to
            return [each.clone() for each in tensors_in(method.execute(list(values)))]

        run.keep = loaded  # type: ignore[attr-defined]
        return run
