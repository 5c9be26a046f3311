"""Every row of the tables of functions and methods: the weight is found, split to the bit, and folded back."""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import sample
from wnconvert import ApplyPass, FoldPass, apply, find_weighted_ops
from wnconvert.graph import calls
from wnconvert.weights import ops

aten = torch.ops.aten
f64 = torch.float64
# it is in the table for as long as torch has it
pytestmark = pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated:UserWarning")


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


def _x(*shape: int) -> Tensor:
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
            args = (_x(*shape), W) if side else (W, _x(*shape))
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
            args = (_x(*bias), _x(*shape), W) if side else (_x(*bias), W, _x(*shape))
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
        args = (_x(*IMAGE[n]), W, None, (2,) * n, (1,) * n, (1,) * n, 2)
        for target in (function, overload.default):
            rows += _call_rows(target, f"conv{n}d", args, names, shape, (0,))
        args = (_x(*IMAGE[n]), W, None, (1,) * n, "same", (1,) * n, 2)
        for target in (function, overload.padding):
            rows += _call_rows(target, f"conv{n}d", args, names, (6, 2, *(3,) * n), (0,))
        convolution = (_x(*IMAGE[n]), W, None, (1,) * n, (0,) * n, (1,) * n, False, (0,) * n, 2)
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
            args = (_x(*IMAGE[n]), W, None, (2,) * n, (0,) * n, (1,) * n, groups, (1,) * n)
            for target in (functions[n], overloads[n]):
                rows += _call_rows(target, f"conv_transpose{n}d", args, names, shape, dims)
            convolution = (_x(*IMAGE[n]), W, None, (2,) * n, (0,) * n, (1,) * n, True, (0,) * n, groups)
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
    a, b = _x(2, 3), _x(2, 3, 4)
    cases = [
        ("bi,oi->bo", (a, W), (5, 3), (0,)),
        ("bi,io->bo", (a, W), (3, 5), (1,)),
        ("oi,bi->bo", (W, a), (5, 3), (0,)),
        ("bi, io", (a, W), (3, 5), (1,)),
        ("bhd,hde->bhe", (b, W), (3, 4, 5), (2,)),
        ("bhd,hed->bhe", (b, W), (3, 5, 4), (1,)),
        ("bi,nhi->bnh", (a, W), (2, 5, 3), (0, 1)),
        ("bi,i->b", (a, W), (3,), ()),
        ("bi,bo,oi->b", (a, _x(2, 5), W), (5, 3), ()),
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
        ("__matmul__", (_x(4, 3), W), (3, 5), (1,)),
        ("__matmul__", (W, _x(3, 4)), (5, 3), (0,)),
        ("__rmatmul__", (_x(3, 4), W), (5, 3), (0,)),
        ("__rmatmul__", (W, _x(4, 3)), (3, 5), (1,)),
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
    a, b = _x(2, 3, 4), _x(4, 2)
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
    c, d = _x(2, 3), _x(4, 2)
    chains = [([c, W], (3, 5), (1,)), ([W, c], (5, 2), (0,)), ([c, W, d], (3, 4), ()), ([c, _x(3, 2), W], (2, 5), (1,))]
    for matrices, shape, kept in chains:
        for target in (torch.linalg.multi_dot, aten.linalg_multi_dot.default):
            rows.append(Row("multi_dot", target, (matrices,), shape, kept))
        rows.append(Row("multi_dot", torch.linalg.multi_dot, (), shape, kept, {"tensors": matrices}))
        rows.append(Row("chain_matmul", torch.chain_matmul, tuple(matrices), shape, kept))
        rows.append(Row("chain_matmul", aten.chain_matmul.default, (matrices,), shape, kept))
    rows.append(Row("multi_dot", torch.linalg.multi_dot, ([_x(3), W],), (3, 5), (1,)))
    rows.append(Row("multi_dot", torch.linalg.multi_dot, ([_x(2, 3), _x(3, 4), W],), (4,), ()))
    names = ("input", "batch1", "batch2")
    left, right = ((2, 3, 5), (2, 4, 3), (1,)), ((2, 4, 3), (2, 3, 5), (2,))
    rows += _sums("addbmm", (torch.addbmm, "addbmm"), names, (4, 5), left, right)
    rows += _sums("addbmm", (aten.addbmm.default,), ("self", "batch1", "batch2"), (4, 5), left, right)
    names = ("input", "weight", "bias", "pad")
    for target in (F.conv_tbc, aten.conv_tbc.default):
        rows += _call_rows(target, "conv_tbc", (_x(6, 2, 4), W, _x(5), 1), names, (3, 4, 5), (2,))
    return rows


LINEAR = ("input", "weight", "bias")
BILINEAR = ("input1", "input2", "weight", "bias")
ROWS = [
    *(
        row
        for target in (F.linear, aten.linear.default)
        for row in _call_rows(target, "linear", (_x(2, 3), W, None), LINEAR, (5, 3), (0,))
    ),
    *(
        row
        for target in (F.bilinear, torch.bilinear, aten.bilinear.default)
        for row in _call_rows(target, "bilinear", (_x(2, 3), _x(2, 4), W, None), BILINEAR, (5, 3, 4), (0,))
    ),
    Row(
        "bilinear",
        aten._trilinear.default,
        (_x(2, 3), W, _x(2, 4), [1, 3], [0], [1, 2], [2, 3]),
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


def test_no_function_is_untested():
    # aten.einsum takes its operands as one list, see below
    assert {row.target for row in ROWS if not isinstance(row.target, str)} | {aten.einsum.default} == set(ops.FUNCTIONS)


def test_no_method_is_untested():
    assert {row.target for row in ROWS if isinstance(row.target, str)} == set(ops.METHODS)


def test_no_name_is_missing():
    assert {row.name for row in ROWS} == {rule.name for rule in (*ops.FUNCTIONS.values(), *ops.METHODS.values())}


@each_row
def test_the_weight_is_found_with_its_output_dims(row):
    model, _ = row.build()
    (found,) = find_weighted_ops(model)
    assert (found.fqn, found.ops, found.shape) == ("w", (row.name,), row.shape)
    assert found.output_dims == row.dims


@pytest.mark.parametrize("row", {(row.name, row.shape): row for row in ROWS}.values(), ids=lambda row: row.id)
def test_each_output_depends_on_one_index_of_an_output_dim(row):
    model, inputs = row.build()
    if row.dims is None:
        channels = outputs_of(model, inputs)[0].shape[1]
        assert channels not in row.shape[:2], "there may be an output dim after all"
        return
    assert set(row.dims) <= _single_dims(model, inputs)


def _single_dims(model: GraphModule, inputs: tuple[Tensor, ...]) -> set[int]:
    """The dims of the weight along which each output element depends on one index at most, and all are used."""
    shape = model.w.shape
    weight_dims = len(shape)

    def output(weight: Tensor) -> Tensor:
        model.w.data = weight.view(shape)
        return outputs_of(model, inputs)[0].flatten()

    # an output is affine in the weight: look at what each single element of it reaches
    offset = output(torch.zeros(shape, dtype=f64))
    columns = [(output(element) - offset).abs() > 1e-12 for element in torch.eye(shape.numel(), dtype=f64)]
    uses = torch.stack(columns, 1).unflatten(1, shape)
    singles = set()
    for dim in range(weight_dims):
        others = [d + 1 for d in range(weight_dims) if d != dim]
        along = uses.any(others) if others else uses
        if int(along.sum(1).max()) == 1:
            singles.add(dim)
    return singles


def test_single_dims_tells_the_output_dim_of_a_linear():
    assert _single_dims(*ROWS[0].build()) == {0}


@each_row
def test_a_round_trip_gives_the_same_outputs_and_the_very_same_graph(row):
    model, inputs = row.build()
    before, expected = Snapshot(model), outputs_of(model, inputs)
    result = ApplyPass("weight_norm").call(model)
    assert result.modified
    assert "w" not in dict(model.named_parameters())
    assert_same_outputs(outputs_of(model, inputs), expected)
    assert FoldPass().call(model).modified
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, inputs), expected)


@pytest.mark.parametrize("row", {row.target: row for row in ROWS}.values(), ids=lambda row: row.id)
def test_the_gradient_reaches_both_parts(row):
    model, inputs = row.build()
    if row.target is aten._embedding_bag_forward_only.default:
        pytest.skip("torch has no derivative for it")
    ApplyPass("weight_norm").call(model)
    model(*inputs).pow(3).sum().backward()
    assert model.w_g.grad.count_nonzero() > 0
    assert model.w_v.grad.count_nonzero() > 0


# einsum


def test_einsum_takes_its_operands_as_a_list():
    graph = Graph()
    x, root = graph.placeholder("x"), nn.Module()
    root.w = nn.Parameter(sample(5, 3))
    call = graph.call_function(aten.einsum.default, ("bi,oi->bo", [x, graph.get_attr("w")]))
    graph.output(call)
    model = GraphModule(root, graph)
    before, expected = Snapshot(model), outputs_of(model, (_x(2, 3),))
    (found,) = find_weighted_ops(model)
    assert (found.ops, found.output_dims) == (("einsum",), (0,))
    ApplyPass().call(model)
    assert_same_outputs(outputs_of(model, (_x(2, 3),)), expected)
    FoldPass().call(model)
    before.assert_same(model)


class _Einsum(nn.Module):
    def __init__(self, equation, *shape):
        super().__init__()
        self.equation = equation
        self.w = nn.Parameter(sample(*shape))

    def forward(self, x):
        return torch.einsum(self.equation, x, self.w)


def test_einsum_with_an_ellipsis_in_the_weight_has_no_known_output_dims():
    model = _Einsum("bi,...oi->...bo", 5, 3)
    (found,) = find_weighted_ops(model)
    assert (found.ops, found.output_dims) == (("einsum",), None)


@pytest.mark.parametrize("dims", [lambda x: x.dim() - 1, lambda x: ([1], x.tolist()), lambda x: ([1], [x.dim()])])
def test_dims_that_are_not_static_are_unknown(dims):
    class Contraction(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(sample(5, 3))

        def forward(self, x):
            return torch.tensordot(x, self.w, dims(x))

    (found,) = find_weighted_ops(Contraction())
    assert (found.ops, found.output_dims) == (("tensordot",), None)


def test_einsum_with_lists_of_numbers_is_found():
    class Sublists(_Einsum):
        def forward(self, x):
            return torch.einsum(x, [0, 1], self.w, [2, 1], [0, 2])

    model = Sublists("", 5, 3)
    expected = outputs_of(model, (_x(2, 3),))
    converted, report = apply(model)
    assert [entry.op for entry in report.converted] == ["einsum"]
    assert_same_outputs(outputs_of(converted, (_x(2, 3),)), expected)


# permuted weights


class _Permuted(nn.Module):
    def __init__(self, permute, product, *shape):
        super().__init__()
        self.w = nn.Parameter(sample(*shape))
        self.permute, self.product = permute, product

    def forward(self, x):
        return self.product(x, self.permute(self.w))


PERMUTED = {
    "t method": (lambda w: w.t(), torch.matmul, (5, 3), (0,)),
    "T": (lambda w: w.T, torch.matmul, (5, 3), (0,)),
    "mT": (lambda w: w.mT, torch.matmul, (5, 3), (0,)),
    "torch.t": (torch.t, torch.matmul, (5, 3), (0,)),
    "transpose": (lambda w: w.transpose(0, 1), torch.matmul, (5, 3), (0,)),
    "transpose by keyword": (lambda w: w.transpose(dim0=-1, dim1=0), torch.matmul, (5, 3), (0,)),
    "torch.transpose": (lambda w: torch.transpose(w, 1, 0), torch.matmul, (5, 3), (0,)),
    "swapaxes": (lambda w: w.swapaxes(0, 1), torch.matmul, (5, 3), (0,)),
    "swapdims": (lambda w: torch.swapdims(w, 0, 1), torch.matmul, (5, 3), (0,)),
    "permute": (lambda w: w.permute(1, 0), torch.matmul, (5, 3), (0,)),
    "permute by tuple": (lambda w: w.permute((1, 0)), torch.matmul, (5, 3), (0,)),
    "torch.permute by keyword": (lambda w: torch.permute(w, dims=(-1, 0)), torch.matmul, (5, 3), (0,)),
    "permute of three": (lambda w: w.permute(2, 0, 1), F.conv1d, (3, 2, 5), (2,)),
    "two steps": (lambda w: w.transpose(0, 2).permute(0, 2, 1), F.conv1d, (3, 2, 5), (2,)),
    "there and back": (lambda w: w.t().t(), F.linear, (5, 3), (0,)),
    "t into linear": (lambda w: w.t(), F.linear, (3, 5), (1,)),
    "aten.t": (lambda w: aten.t.default(w), torch.matmul, (5, 3), (0,)),
    "aten.transpose": (lambda w: aten.transpose.int(w, 0, 1), torch.matmul, (5, 3), (0,)),
    "aten.permute": (lambda w: aten.permute.default(w, [1, 0]), torch.matmul, (5, 3), (0,)),
    "aten.numpy_T": (lambda w: aten.numpy_T.default(w), torch.matmul, (5, 3), (0,)),
    "aten.mT": (lambda w: aten.mT.default(w), torch.matmul, (5, 3), (0,)),
}


@pytest.mark.parametrize("case", PERMUTED)
def test_a_permuted_weight_is_found_below_its_permutations(case):
    permute, product, shape, dims = PERMUTED[case]
    model = symbolic_trace(_Permuted(permute, product, *shape))
    x = _x(2, 3, 6) if len(shape) == 3 else _x(2, 3)
    (found,) = find_weighted_ops(model)
    assert (found.fqn, found.output_dims) == ("w", dims)
    before, expected = Snapshot(model), outputs_of(model, (x,))
    assert ApplyPass(dim="output").call(model).report.converted[0].dims == tuple(
        dim for dim in range(len(shape)) if dim not in dims
    )
    assert_same_outputs(outputs_of(model, (x,)), expected)
    FoldPass().call(model)
    before.assert_same(model)


def test_every_kind_of_permutation_is_tested():
    tested = set()
    for permute, product, shape, _ in PERMUTED.values():
        for node in symbolic_trace(_Permuted(permute, product, *shape)).graph.nodes:
            if calls.is_permutation(node):
                tested.add(node.target)
    untested = (set(calls._PERMUTATIONS) | set(calls._PERMUTATION_METHODS)) - tested
    # the functions and the methods of one name have one rule
    assert untested <= {torch.swapaxes, "swapdims"}


# what torch.export makes


class _Exported(nn.Module):
    """Every weighted module once, and the products of parameters, on inputs of one batch."""

    def __init__(self):
        super().__init__()
        self.linear, self.bilinear = nn.Linear(6, 5), nn.Bilinear(6, 5, 4)
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(2, 4, 3), nn.Conv2d(2, 4, 3, padding="same"), nn.Conv3d(2, 3, 2)
        self.up1, self.up2 = nn.ConvTranspose1d(4, 2, 3, stride=2), nn.ConvTranspose2d(4, 2, 2, groups=2)
        self.up3 = nn.ConvTranspose3d(3, 2, 2)
        self.embedding, self.bag = nn.Embedding(7, 6), nn.EmbeddingBag(7, 6, mode="sum")
        self.w = nn.Parameter(torch.randn(6, 5))
        self.b = nn.Parameter(torch.randn(2, 6, 3))
        self.e = nn.Parameter(torch.randn(5, 6))
        self.m = nn.Parameter(torch.randn(5))

    def forward(self, ids, image):
        x = self.embedding(ids) + self.bag(ids).unsqueeze(1)
        y = self.linear(x)
        z = self.bilinear(x, y)
        image = self.up2(self.conv2(image))
        flat = self.up1(self.conv1(image.flatten(2)))
        deep = self.up3(self.conv3(image.unsqueeze(2).expand(-1, -1, 3, -1, -1)))
        return (
            y,
            z,
            image,
            flat,
            deep,
            x @ self.w,
            torch.bmm(x, self.b),
            torch.einsum("bni,oi->bno", x, self.e),
            torch.addmm(y[0], x[0], self.w),
            torch.mv(y[0], self.m),
        )


WEIGHTS = {
    *(f"{name}.weight" for name in ("linear", "bilinear", "conv1", "conv2", "conv3", "up1", "up2", "up3")),
    *("embedding.weight", "bag.weight", "w", "b", "e", "m"),
}


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    inputs = (torch.tensor([[1, 3, 0], [2, 2, 4]]), torch.randn(2, 2, 6, 6))
    return torch.export.export(_Exported(), inputs), inputs


@pytest.fixture(params=["as exported", "decomposed"])
def exported(request, program):
    exported_program, inputs = program
    if request.param == "decomposed":
        exported_program = exported_program.run_decompositions()
    return exported_program.module(), inputs


def test_every_weight_of_an_exported_program_is_found(exported):
    model, _ = exported
    # decomposing writes a product with a vector as a multiplication and a sum, which is no weighted op
    decomposed = any(node.target is aten.convolution.default for node in model.graph.nodes)
    assert {weight.fqn for weight in find_weighted_ops(model)} == WEIGHTS - ({"m"} if decomposed else set())


def test_an_exported_program_is_converted_to_the_bit_and_folded_to_the_very_same_graph(exported):
    model, inputs = exported
    model = copy.deepcopy(model)
    before, expected = Snapshot(model), outputs_of(model, inputs)
    report = ApplyPass().call(model).report
    assert len(report.converted) >= len(WEIGHTS) - 1
    assert_same_outputs(outputs_of(model, inputs), expected)
    FoldPass().call(model)
    before.assert_same(model)
    assert_same_outputs(outputs_of(model, inputs), expected)


def test_the_overloads_that_export_makes_are_those_of_the_table(exported):
    model, _ = exported
    made = {node.target for node in model.graph.nodes if ops.known_rules().of(node)}
    assert len(made) >= 5
    assert all(isinstance(target, torch._ops.OpOverload) for target in made)
