"""``.aoti.pt2``: a package of AOTInductor, compiled for this machine, which needs no Python to run.

https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.deploying.inputs import arguments, tensors_in
from wnconvert.deploying.target import DimNames, Run, Target, Written, register
from wnconvert.deploying.targets.torch_export import calls_in
from wnconvert.errors import OptionError
from wnconvert.torch_private import cpp_compiler, load_compiled, write_compiled


@register("aot_inductor")
class AotInductor(Target):
    """A compiled package."""

    name = "aot_inductor"
    title = "AOTInductor"
    suffix = ".aoti.pt2"

    def require(self) -> None:
        """Check that there is a compiler."""
        super().require()
        if cpp_compiler() is None:
            raise OptionError("AOTInductor needs a C++ compiler, and there is none; install g++, or name one in CXX")

    def write(self, program: ExportedProgram, path: Path, dims: DimNames) -> Written:
        """Compile the package."""
        write_compiled(program, path)
        return Written(tuple(program.graph_signature.parameters), {"nodes": calls_in(program)})

    def load(self, path: Path, program: ExportedProgram) -> Run:
        """Return the compiled model."""
        compiled = load_compiled(path)

        def run(values: Sequence[Any]) -> list[Tensor]:
            args, kwargs = arguments(program, values)
            return tensors_in(compiled(*args, **kwargs))

        return run
