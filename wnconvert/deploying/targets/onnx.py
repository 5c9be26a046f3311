"""``.onnx``: a model of ONNX, with the names of the weights, which onnxruntime runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.deploying.inputs import tensors_in
from wnconvert.deploying.target import DimNames, Run, Target, Written, register
from wnconvert.errors import VerificationError
from wnconvert.verification import same_bits

#: what tells that a weight is the transposed parameter
TRANSPOSED = ".T"


@register("onnx")
class Onnx(Target):
    """A model of ONNX, in the opset that torch's exporter writes. External data only where it is over 2 GB."""

    name = "onnx"
    title = "ONNX"
    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, path: Path, dims: DimNames) -> Written:
        """Translate the program, and write it."""
        shapes = {name: dict(named) for name, named in dims.items()} or None
        translated = torch.onnx.export(program, (), dynamo=True, verbose=False, dynamic_shapes=shapes)
        assert translated is not None
        _name_transposed(translated.model, program)
        translated.save(path)
        graph = translated.model.graph
        own = {*program.graph_signature.parameters}
        weights = [name for name in graph.initializers if name.removesuffix(TRANSPOSED) in own]
        return Written(tuple(weights), {"nodes": sum(1 for _ in graph)})

    def load(self, path: Path, program: ExportedProgram) -> Run:
        """Return a session of onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]

        def run(values: Sequence[Any]) -> list[Tensor]:
            tensors = tensors_in(values)
            if len(tensors) != len(names):
                raise VerificationError(f"the ONNX model takes {len(names)} inputs, and the model {len(tensors)}")
            feeds = {name: each.numpy(force=True) for name, each in zip(names, tensors, strict=True)}
            return [torch.from_numpy(each) for each in session.run(None, feeds)]

        return run


def _name_transposed(model: Any, program: ExportedProgram) -> None:
    """Call what the exporter transposed ``lin.weight.T``, and not ``val_0``."""
    initializers = model.graph.initializers
    made_up = {name: each for name, each in initializers.items() if name not in program.state_dict}
    waiting = [name for name in program.state_dict if name not in initializers]
    for name, value in made_up.items():
        found = _read(value)
        fitting = (each for each in waiting if _is_transposed(program.state_dict[each], found))
        original = next(fitting, None)
        if original is not None and f"{original}{TRANSPOSED}" not in initializers:
            waiting.remove(original)
            del initializers[name]
            value.name = f"{original}{TRANSPOSED}"
            model.graph.register_initializer(value)


def _read(value: Any) -> Tensor | None:
    """Return a matrix that an initializer holds; nothing else is transposed."""
    held = value.const_value
    if held is None or len(held.shape) != 2:
        return None
    own = getattr(held, "raw", None)
    return own if isinstance(own, Tensor) else torch.from_numpy(held.numpy().copy())


def _is_transposed(parameter: Tensor, found: Tensor | None) -> bool:
    if found is None or parameter.dim() != 2 or parameter.shape != found.shape[::-1]:
        return False
    own = parameter.detach().t()
    return own.dtype == found.dtype and same_bits(own.contiguous(), found.detach().contiguous())
