"""The table of weighted ops: which argument is the weight, and which of its dims index output channels.

A row is a target (a function, a tensor method or an ATen overload) and a rule; the rule of a function and of its
ATen overload is the same. Modules are in `wnconvert.weights.expansion`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch.fx import Node

from wnconvert.graph.calls import argument
from wnconvert.torch_private import (
    ATEN_EMBEDDING_BAG,
    ATEN_EMBEDDING_BAG_FORWARD_ONLY,
    ATEN_TRILINEAR,
    OpOverload,
    OpOverloadPacket,
)
from wnconvert.weighted_op import WeightedOpRule, registered

aten = torch.ops.aten

#: the output dims of a weight of the given shape in the given call; None where no dim of it indexes output channels.
OutputDims: TypeAlias = Callable[[Node, tuple[int, ...]], "tuple[int, ...] | None"]


@dataclass(frozen=True)
class Operand:
    """A place in a call where a weight may stand."""

    node: Node
    output_dims: OutputDims


@dataclass(frozen=True)
class OpRule:
    """A weighted op.

    Attributes:
        name: its name.
        operands: returns the operands of a call that may be its weight.
        is_layer: one operand is always the weight, unlike in a product of any two.
    """

    name: str
    operands: Callable[[Node], Iterator[Operand]]
    is_layer: bool = False


@dataclass(frozen=True)
class Rules:
    """The rules of all weighted ops, by function or ATen overload, and by the name of the method."""

    functions: Mapping[Any, OpRule]
    methods: Mapping[str, OpRule]

    def of(self, node: Node) -> OpRule | None:
        """Return the rule for a call_function or call_method node, or None if it is no weighted op."""
        if node.op == "call_function":
            return self.functions.get(node.target)
        if node.op == "call_method":
            return self.methods.get(str(node.target))
        return None


def known_rules() -> Rules:
    """Return the rules of all weighted ops that are known now: torch's, and those that other code has registered."""
    return _known_rules(registered())


@lru_cache(maxsize=1)
def _known_rules(added: tuple[type[WeightedOpRule], ...]) -> Rules:
    functions, methods = FUNCTIONS | RECURRENT, dict(METHODS)
    for op in added:
        rule = layer(op.name, *op.weight, op.output_dims_of)
        for target in op.targets:
            if isinstance(target, str):
                methods[target] = rule
            else:
                overloads = [getattr(target, name) for name in _overloads_of(target)]
                functions.update(dict.fromkeys((target, *overloads), rule))
    return Rules(functions, methods)


def _overloads_of(target: Any) -> list[str]:
    return target.overloads() if isinstance(target, OpOverloadPacket) else []  # type: ignore[no-untyped-call]


def first(call: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first dim of a weight, if it has more than one."""
    return (0,) if len(shape) > 1 else ()


def _second_last(call: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (len(shape) - 2,) if len(shape) > 1 else ()


def last(call: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The last dim of a weight, if it has more than one."""
    return (len(shape) - 1,) if len(shape) > 1 else ()


def _all_but_last(call: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(len(shape) - 1))


def transposed(groups: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """A transposed convolution keeps (in, out / groups, ...): with groups, no single dim is the output channel.

    Except where each group has one channel in and one out, as in a depthwise convolution.
    """
    if groups == 1:
        return (1,)
    return (0,) if shape[:2] == (groups, 1) else None


def _conv_transpose(node: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return transposed(argument(node, 6, "groups", 1), shape)


def _convolution(node: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if not argument(node, 6, "transposed"):
        return (0,)
    return transposed(argument(node, 8, "groups", 1), shape)


def _fixed(dims: tuple[int, ...], node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    return dims


def _unknown(node: Node, shape: tuple[int, ...]) -> None:
    return None


def _at(*places: tuple[int, str, OutputDims]) -> Callable[[Node], Iterator[Operand]]:
    """Operands at fixed places, each an index, a keyword and the rule for output dims."""

    def operands(node: Node) -> Iterator[Operand]:
        for index, keyword, output_dims in places:
            value = argument(node, index, keyword)
            if isinstance(value, Node):
                yield Operand(value, output_dims)

    return operands


def layer(name: str, index: int, keyword: str, output_dims: OutputDims) -> OpRule:
    """Return the rule of an op that has its weight at one place."""
    return OpRule(name, _at((index, keyword, output_dims)), is_layer=True)


def _einsum(node: Node) -> Iterator[Operand]:
    """Any operand of an equation; its output dims are those whose letter is in the output."""
    equation = argument(node, 0, "equation")
    values = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
    if not isinstance(equation, str):
        # operands and lists of numbers in turn
        yield from (Operand(value, _unknown) for value in node.args if isinstance(value, Node))
        return
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        output = "".join(letter for letter in sorted(set(inputs)) if inputs.count(letter) == 1)
    terms = inputs.split(",")
    for position, (term, value) in enumerate(zip(terms, values, strict=False)):
        others = "".join(terms[:position] + terms[position + 1 :])
        kept = tuple(dim for dim, letter in enumerate(term) if letter in output and letter not in others)
        if isinstance(value, Node):
            yield Operand(value, _unknown if "..." in term else partial(_fixed, kept))


def _not_contracted(side: int, node: Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The output dims of one side of a tensordot, whose dims are a number or a list for each side."""
    if isinstance(node.target, OpOverload):
        dims: Any = argument(node, 2, "dims_self"), argument(node, 3, "dims_other")
    else:
        dims = argument(node, 2, "dims", 2)
    if isinstance(dims, int):
        dims = range(len(shape) - dims, len(shape)), range(dims)
    own = dims[side] if isinstance(dims, (tuple, list)) else None
    if not isinstance(own, (tuple, list, range)) or not all(isinstance(dim, int) for dim in own):
        return None
    contracted = {dim % len(shape) for dim in own}
    return tuple(dim for dim in range(len(shape)) if dim not in contracted)


def _chain(node: Node) -> Iterator[Operand]:
    """Any matrix of a chain of products; what is between two others has no dim that indexes output channels."""
    values = argument(node, 0, "tensors")
    values = values if isinstance(values, (tuple, list)) else node.args
    for position, value in enumerate(values):
        output_dims = {0: _second_last, len(values) - 1: last}.get(position, partial(_fixed, ()))
        if isinstance(value, Node):
            yield Operand(value, output_dims)


def _recurrent(node: Node) -> Iterator[Operand]:
    """The weights of a recurrent op, whose parameters are a list: of each layer and direction first its weights.

    Behind them there are two biases, if it has any, and last the projection of an LSTM, if that has one.
    """
    values: Any = argument(node, 2, "params")
    size = len(values) // (argument(node, 4, "num_layers") * (2 if argument(node, 7, "bidirectional") else 1))
    projection = 4 if argument(node, 3, "has_biases") else 2
    for place, value in enumerate(values):
        if isinstance(value, Node) and (place % size < 2 or place % size == projection):
            yield Operand(value, first)


_LINEAR = layer("linear", 1, "weight", first)
_CONV = {n: layer(f"conv{n}d", 1, "weight", first) for n in (1, 2, 3)}
_CONV_TRANSPOSE = {n: layer(f"conv_transpose{n}d", 1, "weight", _conv_transpose) for n in (1, 2, 3)}
_BILINEAR = layer("bilinear", 2, "weight", first)
# what export decomposes bilinear to; its three factors are the two inputs, with the weight between them
_TRILINEAR = layer("bilinear", 1, "i2", first)
_EMBEDDING = layer("embedding", 1, "weight", last)
_EMBEDDING_FIRST = layer("embedding", 0, "weight", last)
_EMBEDDING_BAG = layer("embedding_bag", 1, "weight", last)
_EMBEDDING_BAG_FIRST = layer("embedding_bag", 0, "weight", last)
#: the name of a function of torch, of its ATen op and of a tensor method -> rule
_PRODUCTS = {
    name: OpRule(name, _at((index, first, _second_last), (index + 1, second, last)))
    for name, index, first, second in (
        ("matmul", 0, "input", "other"),
        ("mm", 0, "input", "mat2"),
        ("bmm", 0, "input", "mat2"),
        ("mv", 0, "input", "vec"),
        ("addmm", 1, "mat1", "mat2"),
        ("baddbmm", 1, "batch1", "batch2"),
        ("addbmm", 1, "batch1", "batch2"),
        ("addmv", 1, "mat", "vec"),
    )
}
_EINSUM = OpRule("einsum", _einsum)
_INNER = OpRule("inner", _at((0, "input", _all_but_last), (1, "other", _all_but_last)))
_TENSORDOT = {
    first: OpRule("tensordot", _at((0, first, partial(_not_contracted, 0)), (1, second, partial(_not_contracted, 1))))
    for first, second in (("a", "b"), ("self", "other"))
}
_MULTI_DOT, _CHAIN_MATMUL = OpRule("multi_dot", _chain), OpRule("chain_matmul", _chain)
_CONV_TBC = layer("conv_tbc", 1, "weight", last)

#: rules that have the name of a function of `torch.nn.functional` and of its ATen op
_NAMED = (_LINEAR, _BILINEAR, *_CONV.values(), _CONV_TRANSPOSE[1], _CONV_TBC)

#: call_function target -> rule
FUNCTIONS: dict[Any, OpRule] = {
    **{getattr(F, rule.name): rule for rule in _NAMED},
    **{getattr(torch, name): rule for name, rule in _PRODUCTS.items()},
    torch.bilinear: _BILINEAR,
    F.conv_transpose2d: _CONV_TRANSPOSE[2],
    F.conv_transpose3d: _CONV_TRANSPOSE[3],
    F.embedding: _EMBEDDING,
    torch.embedding: _EMBEDDING_FIRST,
    F.embedding_bag: _EMBEDDING_BAG,
    torch.embedding_bag: _EMBEDDING_BAG_FIRST,
    operator.matmul: _PRODUCTS["matmul"],
    torch.linalg.matmul: _PRODUCTS["matmul"],
    torch.linalg.multi_dot: _MULTI_DOT,
    torch.chain_matmul: _CHAIN_MATMUL,
    torch.inner: _INNER,
    torch.tensordot: _TENSORDOT["a"],
    torch.einsum: _EINSUM,
    **{getattr(aten, rule.name).default: rule for rule in _NAMED},
    **{getattr(aten, rule.name).padding: rule for rule in _CONV.values()},
    **{getattr(aten, name).default: rule for name, rule in _PRODUCTS.items()},
    aten.conv_transpose2d.input: _CONV_TRANSPOSE[2],
    aten.conv_transpose3d.input: _CONV_TRANSPOSE[3],
    ATEN_TRILINEAR: _TRILINEAR,
    aten.convolution.default: layer("convolution", 1, "weight", _convolution),
    aten.embedding.default: _EMBEDDING_FIRST,
    aten.embedding_bag.default: _EMBEDDING_BAG_FIRST,
    aten.embedding_bag.padding_idx: _EMBEDDING_BAG_FIRST,
    ATEN_EMBEDDING_BAG: _EMBEDDING_BAG_FIRST,
    ATEN_EMBEDDING_BAG_FORWARD_ONLY: _EMBEDDING_BAG_FIRST,
    aten.linalg_matmul.default: _PRODUCTS["matmul"],
    aten.linalg_multi_dot.default: _MULTI_DOT,
    aten.chain_matmul.default: _CHAIN_MATMUL,
    aten.inner.default: _INNER,
    aten.tensordot.default: _TENSORDOT["self"],
    aten.einsum.default: _EINSUM,
}

#: the same for recurrent ops, of which a layer mixes the outputs of all; no program has them on packed sequences
RECURRENT: dict[Any, OpRule] = {
    op.input: OpRule(name, _recurrent, is_layer=True)
    for name, op in (("lstm", aten.lstm), ("gru", aten.gru), ("rnn", aten.rnn_tanh), ("rnn", aten.rnn_relu))
}

#: call_method name -> rule
METHODS: dict[str, OpRule] = {
    **_PRODUCTS,
    "inner": _INNER,
    "__matmul__": _PRODUCTS["matmul"],
    "__rmatmul__": OpRule("matmul", _at((0, "input", last), (1, "other", _second_last))),
}
