"""Calls of every weighted op, in every way to spell them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from tests.helpers import sample

aten = torch.ops.aten
f64 = torch.float64


class _Weight:
    """Where the weight stands among the arguments."""


W = _Weight()


@dataclass(frozen=True)
class Row:
    """A call of a weighted op: what is called, with what, and which dims of the weight index output channels."""

    name: str
    target: Any
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    dims: tuple[int, ...] | None
    kwargs: dict[str, Any] = field(default_factory=dict)
    first_output: bool = False

    @property
    def id(self) -> str:
        label = self.target if isinstance(self.target, str) else str(getattr(self.target, "__name__", self.target))
        given = "".join(f",{key}" for key in self.kwargs)
        return f"{type(self.target).__name__}:{label}{list(self.shape)}{given}"

    def build(self) -> tuple[GraphModule, tuple[Tensor, ...]]:
        """Return a model that makes the call, and its inputs."""
        root, graph, inputs = nn.Module(), Graph(), []
        root.register_parameter("w", nn.Parameter(sample(*self.shape)))

        def operand(value: Any) -> Any:
            if isinstance(value, Tensor):
                inputs.append(value)
                return graph.placeholder(f"x{len(inputs)}")
            return [operand(each) for each in value] if isinstance(value, list) else value

        def with_weight(value: Any) -> Any:
            return [with_weight(each) for each in value] if isinstance(value, list) else weight if value is W else value

        args = [operand(value) for value in self.args]
        kwargs = {key: operand(value) for key, value in self.kwargs.items()}
        weight = graph.get_attr("w")
        args = tuple(with_weight(value) for value in args)
        kwargs = {key: with_weight(value) for key, value in kwargs.items()}
        op = "call_method" if isinstance(self.target, str) else "call_function"
        result = graph.create_node(op, self.target, args, kwargs)
        graph.output(graph.call_function(operator.getitem, (result, 0)) if self.first_output else result)
        graph.lint()
        return GraphModule(root, graph), tuple(inputs)


def drawn(*shape: int) -> Tensor:
    return sample(*shape, seed=3)


IDS = torch.tensor([[1, 3, 0], [2, 2, 4]])
FLAT, OFFSETS = torch.tensor([1, 3, 0, 2, 2, 4]), torch.tensor([0, 2])
IMAGE = {1: (2, 4, 7), 2: (2, 4, 5, 4), 3: (1, 4, 3, 3, 4)}
KERNEL = {1: (3,), 2: (3, 2), 3: (2, 2, 2)}


def _call_rows(target: Any, name: str, args: tuple[Any, ...], names: tuple[str, ...], *rest: Any) -> list[Row]:
    """The same call with all arguments by position, with the weight and what follows by keyword, and all by keyword."""
    named = dict(zip(names, args, strict=True))
    counts = {0, args.index(W), len(args)}
    # export writes at least the first argument by position
    counts = {max(count, 1) for count in counts} if isinstance(target, torch._ops.OpOverload) else counts
    rows = [
        Row(name, target, args[:count], *rest, {key: named[key] for key in names[count:]})
        for count in sorted(counts, reverse=True)
    ]
    return [row for row in rows if row.kwargs.get("self") is None]


def _products(name: str, targets: tuple[Any, ...], names: tuple[str, str], left: Any, right: Any) -> list[Row]:
    """A product with the weight on the right, then on the left; each is (input shape, weight shape, output dims)."""
    rows = []
    for target in targets:
        for side, case in ((1, right), (0, left)):
            shape, weight, dims = case
            args = (drawn(*shape), W) if side else (W, drawn(*shape))
            # a method has no name for its first argument, and an operator has none at all
            if target is operator.matmul:
                rows.append(Row(name, target, args, weight, dims))
            elif isinstance(target, str):
                rows.append(Row(name, target, args, weight, dims))
                rows.append(Row(name, target, args[:1], weight, dims, {names[1]: args[1]}))
            else:
                rows += _call_rows(target, name, args, names, weight, dims)
    return rows


def _sums(name: str, targets: tuple[Any, ...], names: tuple[str, str, str], bias: Any, left: Any, right: Any):
    """A product added to something."""
    rows = []
    for target in targets:
        for side, (shape, weight, dims) in ((1, right), (0, left)):
            args = (drawn(*bias), drawn(*shape), W) if side else (drawn(*bias), W, drawn(*shape))
            if isinstance(target, str):
                rows.append(Row(name, target, args, weight, dims))
                rows.append(Row(name, target, args[:2], weight, dims, {names[2]: args[2]}))
            else:
                rows += _call_rows(target, name, args, names, weight, dims)
    return rows


def _conv_rows() -> list[Row]:
    rows = []
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    for n, function in {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}.items():
        overload = getattr(aten, f"conv{n}d")
        shape = (6, 2, *KERNEL[n])
        args = (drawn(*IMAGE[n]), W, None, (2,) * n, (1,) * n, (1,) * n, 2)
        for target in (function, overload.default):
            rows += _call_rows(target, f"conv{n}d", args, names, shape, (0,))
        args = (drawn(*IMAGE[n]), W, None, (1,) * n, "same", (1,) * n, 2)
        for target in (function, overload.padding):
            rows += _call_rows(target, f"conv{n}d", args, names, (6, 2, *(3,) * n), (0,))
        convolution = (drawn(*IMAGE[n]), W, None, (1,) * n, (0,) * n, (1,) * n, False, (0,) * n, 2)
        rows.append(Row("convolution", aten.convolution.default, convolution, shape, (0,)))
    return rows


def _conv_transpose_rows() -> list[Row]:
    rows = []
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    functions = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
    overloads = {
        1: aten.conv_transpose1d.default,
        2: aten.conv_transpose2d.input,
        3: aten.conv_transpose3d.input,
    }
    # groups, output channels of a group, output dims: only without groups, or one group a channel, is it one dim
    cases = [(1, 5, (1,)), (2, 3, None), (4, 1, (0,)), (2, 1, None), (4, 2, None)]
    for n in (1, 2, 3):
        for groups, out, dims in cases if n == 1 else cases[:2]:
            shape = (4, out, *KERNEL[n])
            args = (drawn(*IMAGE[n]), W, None, (2,) * n, (0,) * n, (1,) * n, groups, (1,) * n)
            for target in (functions[n], overloads[n]):
                rows += _call_rows(target, f"conv_transpose{n}d", args, names, shape, dims)
            convolution = (drawn(*IMAGE[n]), W, None, (2,) * n, (0,) * n, (1,) * n, True, (0,) * n, groups)
            rows.append(Row("convolution", aten.convolution.default, convolution, shape, dims))
    return rows


def _embedding_rows() -> list[Row]:
    rows = [
        *_call_rows(F.embedding, "embedding", (IDS, W), ("input", "weight"), (5, 3), (1,)),
        *_call_rows(torch.embedding, "embedding", (W, IDS), ("weight", "indices"), (5, 3), (1,)),
        *_call_rows(aten.embedding.default, "embedding", (W, IDS), ("weight", "indices"), (5, 3), (1,)),
    ]
    bag = ("input", "weight", "offsets")
    rows += _call_rows(F.embedding_bag, "embedding_bag", (FLAT, W, OFFSETS), bag, (5, 3), (1,))
    bag = ("weight", "indices", "offsets")
    for row in (
        *_call_rows(torch.embedding_bag, "embedding_bag", (W, FLAT, OFFSETS), bag, (5, 3), (1,)),
        *_call_rows(aten.embedding_bag.default, "embedding_bag", (W, FLAT, OFFSETS), bag, (5, 3), (1,)),
        *_call_rows(aten._embedding_bag.default, "embedding_bag", (W, FLAT, OFFSETS), bag, (5, 3), (1,)),
        *_call_rows(aten._embedding_bag_forward_only.default, "embedding_bag", (W, FLAT, OFFSETS), bag, (5, 3), (1,)),
        Row(
            "embedding_bag",
            aten.embedding_bag.padding_idx,
            (W, FLAT, OFFSETS, False, 0, False, None, False, 0),
            (5, 3),
            (1,),
        ),
    ):
        rows.append(Row(row.name, row.target, row.args, row.shape, row.dims, row.kwargs, first_output=True))
    return rows


def _einsum_rows() -> list[Row]:
    a, b = drawn(2, 3), drawn(2, 3, 4)
    cases = [
        ("bi,oi->bo", (a, W), (5, 3), (0,)),
        ("bi,io->bo", (a, W), (3, 5), (1,)),
        ("oi,bi->bo", (W, a), (5, 3), (0,)),
        ("bi, io", (a, W), (3, 5), (1,)),
        ("bhd,hde->bhe", (b, W), (3, 4, 5), (2,)),
        ("bhd,hed->bhe", (b, W), (3, 5, 4), (1,)),
        ("bi,nhi->bnh", (a, W), (2, 5, 3), (0, 1)),
        ("bi,i->b", (a, W), (3,), ()),
        ("bi,bo,oi->b", (a, drawn(2, 5), W), (5, 3), ()),
        ("...i,oi->...o", (a, W), (5, 3), (0,)),
    ]
    rows = []
    for equation, operands, shape, dims in cases:
        rows.append(Row("einsum", torch.einsum, (equation, *operands), shape, dims))
    return rows


def _products_rows() -> list[Row]:
    two = (((3, 4), (5, 3), (0,)), ((4, 3), (3, 5), (1,)))
    batched = (((2, 3, 4), (2, 5, 3), (1,)), ((2, 4, 3), (2, 3, 5), (2,)))
    vector = (((3,), (5, 3), (0,)), ((4, 3), (3,), ()))
    mm, bmm, mv = ("input", "mat2"), ("input", "mat2"), ("input", "vec")
    rows = [
        *_products("matmul", (torch.matmul, operator.matmul, "matmul"), ("input", "other"), *two),
        *_products("matmul", (torch.matmul, operator.matmul, "matmul"), ("input", "other"), *batched),
        *_products("matmul", (torch.matmul, operator.matmul, "matmul"), ("input", "other"), *vector),
        *_products("matmul", (aten.matmul.default,), ("self", "other"), *two),
        *_products("mm", (torch.mm, "mm"), mm, *two),
        *_products("mm", (aten.mm.default,), ("self", "mat2"), *two),
        *_products("bmm", (torch.bmm, "bmm"), bmm, *batched),
        *_products("bmm", (aten.bmm.default,), ("self", "mat2"), *batched),
        *_products("mv", (torch.mv, "mv"), mv, *vector),
        *_products("mv", (aten.mv.default,), ("self", "vec"), *vector),
    ]
    for target, args, shape, dims in [
        ("__matmul__", (drawn(4, 3), W), (3, 5), (1,)),
        ("__matmul__", (W, drawn(3, 4)), (5, 3), (0,)),
        ("__rmatmul__", (drawn(3, 4), W), (5, 3), (0,)),
        ("__rmatmul__", (W, drawn(4, 3)), (3, 5), (1,)),
    ]:
        rows.append(Row("matmul", target, args, shape, dims))
    names = ("input", "mat1", "mat2")
    left, right = ((3, 5), (4, 3), (0,)), ((4, 3), (3, 5), (1,))
    rows += _sums("addmm", (torch.addmm, "addmm"), names, (4, 5), left, right)
    rows += _sums("addmm", (aten.addmm.default,), ("self", "mat1", "mat2"), (4, 5), left, right)
    left, right = ((2, 3, 5), (2, 4, 3), (1,)), ((2, 4, 3), (2, 3, 5), (2,))
    rows += _sums("baddbmm", (torch.baddbmm, "baddbmm"), ("input", "batch1", "batch2"), (2, 4, 5), left, right)
    rows += _sums("baddbmm", (aten.baddbmm.default,), ("self", "batch1", "batch2"), (2, 4, 5), left, right)
    left, right = ((3,), (4, 3), (0,)), ((4, 3), (3,), ())
    rows += _sums("addmv", (torch.addmv, "addmv"), ("input", "mat", "vec"), (4,), left, right)
    rows += _sums("addmv", (aten.addmv.default,), ("self", "mat", "vec"), (4,), left, right)
    return rows


def _contractions_rows() -> list[Row]:
    """Products of more or fewer dims or matrices than two."""
    both = ("input", "other")
    two = (((3, 4), (5, 3), (0,)), ((4, 3), (3, 5), (1,)))
    left, right = ((2, 3), (5, 3), (0,)), ((2, 3), (5, 4, 3), (0, 1))
    rows = [
        *_products("matmul", (torch.linalg.matmul,), both, *two),
        *_products("matmul", (aten.linalg_matmul.default,), ("self", "other"), *two),
        *_products("inner", (torch.inner, "inner"), both, left, right),
        *_products("inner", (aten.inner.default,), ("self", "other"), left, right),
        *_products("inner", (torch.inner,), both, ((2, 3), (3,), ()), ((2, 3), (3,), ())),
    ]
    a, b = drawn(2, 3, 4), drawn(4, 2)
    cases: list[tuple[tuple[Any, ...], Any, tuple[int, ...], tuple[int, ...]]] = [
        ((a, W), 1, (4, 5), (1,)),
        ((a, W), 2, (3, 4, 5, 2), (2, 3)),
        ((W, b), 1, (5, 4), (0,)),
        ((a, W), ([1, -1], [2, 0]), (4, 5, 3), (1,)),
        ((W, a), ([-1], [-1]), (5, 4), (0,)),
        ((a, W), ((0, 1, 2), (0, 1, 2)), (2, 3, 4), ()),
    ]
    for args, dims, shape, kept in cases:
        rows += _call_rows(torch.tensordot, "tensordot", (*args, dims), ("a", "b", "dims"), shape, kept)
        if not isinstance(dims, int):
            lists = tuple(map(list, dims))
            names = ("self", "other", "dims_self", "dims_other")
            rows += _call_rows(aten.tensordot.default, "tensordot", (*args, *lists), names, shape, kept)
    rows.append(Row("tensordot", torch.tensordot, (a, W), (3, 4, 5), (2,)))
    c, d = drawn(2, 3), drawn(4, 2)
    chains = [
        ([c, W], (3, 5), (1,)),
        ([W, c], (5, 2), (0,)),
        ([c, W, d], (3, 4), ()),
        ([c, drawn(3, 2), W], (2, 5), (1,)),
    ]
    for matrices, shape, kept in chains:
        for target in (torch.linalg.multi_dot, aten.linalg_multi_dot.default):
            rows.append(Row("multi_dot", target, (matrices,), shape, kept))
        rows.append(Row("multi_dot", torch.linalg.multi_dot, (), shape, kept, {"tensors": matrices}))
        rows.append(Row("chain_matmul", torch.chain_matmul, tuple(matrices), shape, kept))
        rows.append(Row("chain_matmul", aten.chain_matmul.default, (matrices,), shape, kept))
    rows.append(Row("multi_dot", torch.linalg.multi_dot, ([drawn(3), W],), (3, 5), (1,)))
    rows.append(Row("multi_dot", torch.linalg.multi_dot, ([drawn(2, 3), drawn(3, 4), W],), (4,), ()))
    names = ("input", "batch1", "batch2")
    left, right = ((2, 3, 5), (2, 4, 3), (1,)), ((2, 4, 3), (2, 3, 5), (2,))
    rows += _sums("addbmm", (torch.addbmm, "addbmm"), names, (4, 5), left, right)
    rows += _sums("addbmm", (aten.addbmm.default,), ("self", "batch1", "batch2"), (4, 5), left, right)
    names = ("input", "weight", "bias", "pad")
    for target in (F.conv_tbc, aten.conv_tbc.default):
        rows += _call_rows(target, "conv_tbc", (drawn(6, 2, 4), W, drawn(5), 1), names, (3, 4, 5), (2,))
    return rows


LINEAR = ("input", "weight", "bias")
BILINEAR = ("input1", "input2", "weight", "bias")
ROWS = [
    *(
        row
        for target in (F.linear, aten.linear.default)
        for row in _call_rows(target, "linear", (drawn(2, 3), W, None), LINEAR, (5, 3), (0,))
    ),
    *(
        row
        for target in (F.bilinear, torch.bilinear, aten.bilinear.default)
        for row in _call_rows(target, "bilinear", (drawn(2, 3), drawn(2, 4), W, None), BILINEAR, (5, 3, 4), (0,))
    ),
    Row(
        "bilinear",
        aten._trilinear.default,
        (drawn(2, 3), W, drawn(2, 4), [1, 3], [0], [1, 2], [2, 3]),
        (5, 3, 4),
        (0,),
    ),
    *_conv_rows(),
    *_conv_transpose_rows(),
    *_embedding_rows(),
    *_products_rows(),
    *_contractions_rows(),
    *_einsum_rows(),
]

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
