"""Programs to convert, and all that can be asked of one."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.graph.snapshot import graph_listing
from wnconvert.verification import same_bits

#: how a program is at hand
STAGES = ("exported", "decomposed", "loaded", "loaded decomposed")


class Normalized(nn.Module):
    """Torch's norms in both spellings, tied weights, frozen ones, buffers and constants of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(3, 4, 3))
        self.hooked = torch.nn.utils.weight_norm(nn.ConvTranspose1d(4, 4, 3))
        self.spectral = spectral_norm(nn.Conv1d(4, 4, 3))
        self.norm = nn.BatchNorm1d(4)
        self.linear, self.tied = nn.Linear(5, 5, bias=False), nn.Linear(5, 5)
        self.tied.weight = self.linear.weight
        self.frozen = weight_norm(nn.Linear(5, 6)).requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1), persistent=False)
        self.constant = torch.full((2,), 0.5)

    def forward(self, x, scale: int, *, options=None):
        self.calls.add_(1)
        x = self.norm(self.spectral(self.hooked(self.first(x))))
        x = self.frozen(self.tied(self.linear(x[..., :5]))) * scale + self.calls + self.constant.sum()
        return {"x": x if options is None else x + options["shift"], "none": None}


INPUTS = (torch.linspace(-1, 1, 120).view(2, 3, 20), 3)
OPTIONS = {"options": {"shift": torch.ones(6)}}


def normalized() -> Normalized:
    """Return the model in evaluation mode; its weights are always the same."""
    torch.manual_seed(0)
    return Normalized().eval()


def exported(model: nn.Module, stage: str = "exported", **kwargs: Any) -> ExportedProgram:
    """Return a program of a `Normalized` whose batch and length are dynamic."""
    shapes = {"x": {0: Dim("batch"), 2: Dim("length", min=12)}, "scale": None, "options": {"shift": None}}
    with warnings.catch_warnings():
        # older hooks assign the weight that they compute; torch's own copies of tree specs are deprecated
        warnings.simplefilter("ignore")
        program = torch.export.export(model, INPUTS, OPTIONS, dynamic_shapes=shapes, **kwargs)
        return at(program, stage)


def at(program: ExportedProgram, stage: str) -> ExportedProgram:
    """Return a program as it is at a stage."""
    if stage.endswith("decomposed"):
        program = program.run_decompositions()
    return loaded(program) if stage.startswith("loaded") else program


def loaded(program: ExportedProgram) -> ExportedProgram:
    """Return a program that went through a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def facts(program: ExportedProgram, names: bool = True) -> dict[str, Any]:
    """Return all that a program is, but for the values of its tensors; tied ones have one number.

    ``names=False`` numbers the nodes: a decomposition counts them on from those that it wrote before.
    """
    numbers: dict[int, int] = {}
    number_of = {node.name: node.name if names else index for index, node in enumerate(program.graph.nodes)}

    def tensor(value: Any) -> tuple[Any, ...]:
        number = numbers.setdefault(value.data_ptr(), len(numbers))
        return type(value), number, value.dtype, tuple(value.shape), value.stride(), value.requires_grad

    def val(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(val, value))
        return (value.dtype, str(tuple(value.shape)), str(value.stride())) if hasattr(value, "dtype") else str(value)

    def argument(value: Any) -> tuple[Any, ...]:
        return type(value), number_of.get(value.name), getattr(value, "value", None)

    signature, nodes = program.graph_signature, program.graph.nodes
    return {
        "graph": graph_listing(program.graph_module, names=names),
        "vals": [val(node.meta["val"]) for node in nodes if "val" in node.meta],
        "inputs": [(spec.kind, argument(spec.arg), spec.target, spec.persistent) for spec in signature.input_specs],
        "outputs": [(spec.kind, argument(spec.arg), spec.target) for spec in signature.output_specs],
        "state": [(key, *tensor(value)) for key, value in program.state_dict.items()],
        "constants": [(key, *tensor(value)) for key, value in program.constants.items()],
        "ranges": {str(symbol): str(bounds) for symbol, bounds in program.range_constraints.items()},
        "calls": [(entry.fqn, str(entry.signature)) for entry in program.module_call_graph],
        "verifiers": program.verifiers,
    }


def assert_same_program(actual: ExportedProgram, expected: ExportedProgram, names: bool = True) -> None:
    """Assert that two programs are alike, but for the values of their tensors."""
    a, e = facts(actual, names), facts(expected, names)
    for fact, value in e.items():
        assert a[fact] == value, f"{fact} differ"


def assert_same_state(actual: ExportedProgram, expected: ExportedProgram) -> None:
    """Assert that two programs have the same tensors to the bit."""
    assert list(actual.state_dict) == list(expected.state_dict)
    for key, value in expected.state_dict.items():
        assert same_bits(actual.state_dict[key], value), f"{key} has other bits"


def outputs(program: ExportedProgram, batch: int = 4, length: int = 31, seed: int = 0) -> list[torch.Tensor]:
    """Run a program of a `Normalized` on a size of its own, twice, for its buffers count."""
    torch.manual_seed(seed)
    x = torch.randn(batch, 3, length)
    module = program.module()
    with torch.no_grad():
        return [module(x, 3, **OPTIONS)["x"] for _ in range(2)]
