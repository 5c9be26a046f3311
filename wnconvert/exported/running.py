"""Run a program's graph on inputs of the sizes that it allows, without touching what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.fx import Node

from wnconvert.errors import OptionError
from wnconvert.graph.writes import may_be, written_by
from wnconvert.torch_private import pytree

#: how much larger than the example, or than the least size, the third size is in every dynamic dim
_STEP = 3


class Runner:
    """Runs a program; what it writes to are copies.

    Args:
        program: the program.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
        self._written = {base for node in program.graph.nodes for each in written_by(node) for base in may_be(each)}
        self._inputs = list(zip(nodes, program.graph_signature.input_specs, strict=True))

    @torch.no_grad()
    def run(self, user_inputs: Sequence[Any], seed: int = 0) -> list[Any]:
        """Return the outputs, and then what the program wrote to, for inputs in the order of the signature.

        Gradients are off for all tensors alike, so that no kernel is chosen by them.
        """
        given = iter(user_inputs)
        values, written = [], []
        for node, spec in self._inputs:
            value = next(given) if spec.kind is InputKind.USER_INPUT else self._held(spec.target)
            if isinstance(value, Tensor):
                value = value.detach()
                if node in self._written:
                    written.append(value := value.clone())
            values.append(value)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outputs = self._program.graph_module(*values)
        return [*outputs, *written]

    def _held(self, target: str | None) -> Any:
        if target is None:
            return None  # a token, which only orders what has effects
        state = self._program.state_dict
        return state[target] if target in state else self._program.constants[target]


def user_inputs(program: ExportedProgram, given: tuple[Any, ...] | None = None) -> Iterator[list[Any]]:
    """Yield inputs for a program, in the order of its signature: examples, the least sizes, and others.

    Where it has no example, numbers are small, so that they can be indices.

    Args:
        program: the program.
        given: positional arguments to begin with.

    Raises:
        OptionError: these are not as many tensors as the program takes.
    """
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    inputs = [
        (node, spec.arg)
        for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True)
        if spec.kind is InputKind.USER_INPUT
    ]
    examples = _leaves(program.example_inputs, len(inputs))
    if given is not None:
        leaves = _leaves(given, len(inputs))
        if leaves is None:
            raise OptionError(f"the program takes {len(inputs)} inputs, and example_inputs are others")
        yield leaves
    if examples is not None:
        yield [each.clone() if isinstance(each, Tensor) else each for each in examples]
    least = {symbol: _least(bounds) for symbol, bounds in program.range_constraints.items() if symbol.is_Symbol}
    known = _sizes(inputs, examples) if examples is not None else least
    larger = {symbol: size + _STEP for symbol, size in (least | known).items()}
    fitting = {s: min(size, _most(program.range_constraints.get(s), size)) for s, size in larger.items()}
    sizes_to_try = [least, fitting] if least else [{}] if examples is None else []
    for sizes in sizes_to_try:
        generator = torch.Generator().manual_seed(0)
        yield [
            _value(node, argument, sizes, None if examples is None else examples[index], generator)
            for index, (node, argument) in enumerate(inputs)
        ]


def _leaves(arguments: Any, count: int) -> list[Any] | None:
    """Return the inputs that arguments consist of, or None if there are none or not as many."""
    leaves = None if arguments is None else pytree.tree_leaves(arguments)
    return leaves if leaves is not None and len(leaves) == count else None


def _least(bounds: Any) -> int:
    """Return the least size of a dim; none is empty, and one of size 1 is a special case to kernels."""
    return max(2, int(bounds.lower)) if bounds.upper >= 2 else int(bounds.lower)


def _most(bounds: Any, size: int) -> int:
    return size if bounds is None or bounds.upper > size else int(bounds.upper)


def _sizes(inputs: Sequence[tuple[Node, Any]], examples: Sequence[Any]) -> dict[Any, int]:
    """Return the size that each symbol has in the example."""
    sizes = {}
    for (node, _), example in zip(inputs, examples, strict=True):
        val = node.meta.get("val")
        known = zip(val.shape, example.shape, strict=False) if isinstance(val, Tensor) else ((val, example),)
        for dim, size in known:
            symbol = getattr(getattr(dim, "node", None), "expr", None)
            if symbol is not None and symbol.is_Symbol:
                sizes[symbol] = int(size)
    return sizes


def _value(node: Node, argument: Any, sizes: Mapping[Any, int], example: Any, generator: torch.Generator) -> Any:
    if isinstance(argument, ConstantArgument):
        return argument.value
    val = node.meta["val"]
    if not isinstance(val, Tensor):
        return _number(val, sizes)
    shape = [_number(dim, sizes) for dim in val.shape]
    if isinstance(example, Tensor) and shape == list(example.shape):
        return example.clone()
    if val.dtype.is_floating_point or val.dtype.is_complex:
        value = torch.randn(shape, generator=generator, dtype=torch.complex64 if val.dtype.is_complex else None)
    elif isinstance(example, Tensor) and example.numel():
        picked = torch.randint(example.numel(), shape, generator=generator)
        value = example.detach().cpu().flatten()[picked]
    else:
        value = torch.randint(2, shape, generator=generator)
    return value.to(val.device, val.dtype)


def _number(dim: Any, sizes: Mapping[Any, int]) -> Any:
    expression = getattr(getattr(dim, "node", None), "expr", None)
    if expression is None:
        return dim
    kind = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(dim)]
    return kind(expression.subs(sizes))
