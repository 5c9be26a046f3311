"""What looks as if it could move, and would change what the model does; and what the model is afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.fusing.checking import fused, into, stirred
from tests.fusing.test_fusing import Calls


def program(model: nn.Module, *inputs: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(model, inputs)


def gain(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(*shape) + 0.5)


def refused(model: nn.Module, reason: str, *inputs: Tensor, **options: Any) -> None:
    """See that nothing moves in the graph of a model, with or without inputs, nor in what is exported of it."""
    for given in (None, copy.deepcopy(inputs)):
        with pytest.raises(wnconvert.NothingToConvertError, match=reason):
            wnconvert.fuse(model, how="graph", example_inputs=given, **options)
    with pytest.raises(wnconvert.NothingToConvertError, match=reason):
        wnconvert.fuse(program(model, *copy.deepcopy(inputs)), **options)


@pytest.mark.parametrize(
    ("forward", "shape"),
    [
        (lambda self, x: self.conv(x) * self.gain.reshape(1, 1, -1, 1, 1), (2, 4, 5, 5)),
        (lambda self, x: self.lin(x * self.gain), (3, 1)),
        (lambda self, x: self.lin(x) * self.gain.reshape(1, 1, -1), (3, 4)),
    ],
    ids=["a dim more for a convolution", "more channels", "a dim more for a linear layer"],
)
def test_a_constant_that_makes_its_input_larger_stays(forward: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...]):
    model = stirred(Calls(forward, conv=nn.Conv2d(4, 4, 3), lin=nn.Linear(4, 4), gain=gain(4)))
    refused(model, "its result has shape|nothing shows", torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("forward", "x"),
    [
        (lambda self, x: self.conv(x / 255.0), torch.arange(100).reshape(1, 4, 5, 5).to(torch.uint8)),
        (lambda self, x: self.conv(x.flatten(0, 0) / 255.0), torch.arange(100).reshape(1, 4, 5, 5).to(torch.uint8)),
        (lambda self, x: self.lin(x * self.gain), torch.randn(3, 4, dtype=torch.float16)),
    ],
    ids=["an image of bytes", "a view of one", "half precision"],
)
def test_a_constant_that_turns_its_input_into_floats_stays(forward: Callable[[Any, Tensor], Tensor], x: Tensor):
    model = Calls(forward, conv=nn.Conv2d(4, 4, 3), lin=nn.Linear(4, 4), gain=gain(4)).eval()
    reason = "it turns its input into torch.float32|nothing shows shape and dtype of 'x'|no such normalization"
    refused(model, reason, x)


def test_a_number_needs_no_shapes_where_a_cast_names_the_dtype():
    model = Calls(lambda self, x: self.conv(x.float() / 255.0), conv=nn.Conv2d(4, 4, 3)).eval()
    made, report = wnconvert.fuse(model, how="graph")
    assert into(report) == {"truediv": ("conv.weight",)}
    x = torch.randint(0, 255, (2, 4, 5, 5), dtype=torch.uint8)
    torch.testing.assert_close(made(x), model(x))


def test_a_cast_that_is_more_than_rounding_is_in_the_way():
    model = Calls(
        lambda self, x: self.lin(x).to(torch.int32).to(torch.float64) * self.gain, lin=nn.Linear(4, 4), gain=gain(4)
    )
    refused(stirred(model), "no such normalization", torch.randn(3, 4, dtype=torch.float64))


def test_a_constant_that_promotes_what_a_cast_gives_stays():
    model = Calls(lambda self, x: self.lin(x).half() * self.gain, lin=nn.Linear(4, 4), gain=gain(4)).eval()
    refused(
        model,
        "it may turn its input into torch.float32, and '(half|to)' gives torch.float16|no such",
        torch.randn(3, 4),
    )


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Identity])
def test_hooks_between_two_are_in_the_way(kind: type[nn.Module]):
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 3), kind(), nn.BatchNorm2d(4)))
    model[1].register_forward_hook(lambda module, args, value: value.relu())
    with pytest.raises(wnconvert.NothingToConvertError, match="no linear layer or convolution stands beside it"):
        wnconvert.fuse(model)


@pytest.mark.parametrize("tied", [True, False])
def test_a_constant_that_the_graph_changes_is_none(tied: bool):
    def forward(self: Any, x: Tensor) -> Tensor:
        self.gain.add_(1.0)
        return self.conv(x) * (self.twin if tied else self.gain)

    model = stirred(Calls(forward, conv=nn.Conv2d(4, 4, 3), gain=nn.Buffer(torch.rand(4, 1, 1))))
    model.twin = model.gain
    exported = program(model, torch.randn(2, 4, 5, 5, dtype=torch.float64))
    # torch cannot decompose the change of a buffer that has two names
    for each in (exported,) if tied else (exported, exported.run_decompositions()):
        with pytest.raises(wnconvert.NothingToConvertError, match=r"changes '(lifted_tensor_0|gain)' in place|no such"):
            wnconvert.fuse(each)


@pytest.mark.parametrize("untie", [True, False])
def test_a_weight_that_the_graph_changes_takes_in_nothing(untie: bool):
    def forward(self: Any, x: Tensor) -> Tensor:
        self.weight.mul_(2.0)
        return self.norm(F.conv2d(x, self.weight))

    model = stirred(Calls(forward, weight=nn.Buffer(torch.rand(4, 4, 3, 3)), norm=nn.BatchNorm2d(4)))
    exported = program(model, torch.randn(2, 4, 5, 5, dtype=torch.float64))
    for each in (exported, exported.run_decompositions()):
        with pytest.raises(wnconvert.NothingToConvertError):
            wnconvert.fuse(each, untie=untie)
    graph_module = wnconvert.trace(
        Calls(
            lambda self, x: self.norm(F.conv2d(x, self.weight)), weight=gain(4, 4, 3, 3), norm=nn.BatchNorm2d(4)
        ).eval()
    )
    graph = graph_module.graph
    (read,) = graph.find_nodes(op="get_attr", target="weight")
    with graph.inserting_before(read):
        graph.call_method("mul_", (graph.get_attr("weight"), 2.0))
    graph_module.recompile()
    with pytest.raises(
        wnconvert.NothingToConvertError, match="is read 2 times" if not untie else "changes 'weight' in place"
    ):
        wnconvert.fuse(graph_module, untie=untie)


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_changed_between_a_constant_and_its_layer_stays(kept: bool):
    """The batch norm moves, so what is changed in place is the convolution's value then."""

    def forward(self: Any, x: Tensor) -> Any:
        y = F.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)
        doubled = y * 2.0
        y.relu_()
        return (self.last(doubled), y) if kept else self.last(doubled)

    model = Calls(forward, conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4), last=nn.Conv2d(4, 4, 3))
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    for given in (False, True):
        _, report = fused(stirred(model), x, how="graph", given=given)
        assert into(report) == {"norm": ("conv.weight",)}


def test_what_is_changed_in_place_is_not_the_callers():
    model = stirred(Calls(lambda self, x: self.lin(x.view(-1, 4).mul_(self.gain)), lin=nn.Linear(4, 4), gain=gain(4)))
    refused(
        model,
        "what it changes in place is read elsewhere too|read by 'output' too",
        torch.randn(3, 4, dtype=torch.float64),
    )


def test_a_bias_that_two_functions_read_is_neithers_own():
    def forward(self: Any, x: Tensor) -> Any:
        return F.linear(x, self.one, self.bias) * self.gain, F.linear(x, self.two, self.bias)

    model = stirred(Calls(forward, one=gain(4, 4), two=gain(4, 4), bias=gain(4), gain=gain(4)))
    refused(model, "'bias' is read 2 times", torch.randn(3, 4, dtype=torch.float64), untie=True)


def test_a_tied_weight_that_is_also_read_under_its_own_name_is_not_untied():
    def forward(self: Any, x: Tensor) -> Any:
        return self.one(self.norm(x)), F.linear(x, self.one.weight)

    model = Calls(forward, one=nn.Linear(4, 4), two=nn.Linear(4, 4), norm=nn.LayerNorm(4))
    model.one.weight = model.two.weight
    with pytest.raises(wnconvert.NothingToConvertError, match=r"'one\.weight' is read 2 times"):
        wnconvert.fuse(stirred(model), how="graph", untie=True)


def test_a_gain_that_is_read_besides_its_norm_stays():
    model = stirred(
        Calls(
            lambda self, x: self.lin(self.norm(x)).sigmoid() * self.norm.weight,
            lin=nn.Linear(4, 4),
            norm=nn.LayerNorm(4),
        )
    )
    for how in ("module", "graph"):
        with pytest.raises(wnconvert.NothingToConvertError, match=r"'norm\.weight' is read elsewhere too"):
            wnconvert.fuse(model, how=how)


def test_what_counts_the_batches_stays_where_it_is_read():
    model, x = (
        Calls(
            lambda self, x: self.norm(self.conv(x)) + self.norm.num_batches_tracked,
            conv=nn.Conv2d(4, 4, 3),
            norm=nn.BatchNorm2d(4),
        ),
        torch.randn(2, 4, 5, 5, dtype=torch.float64),
    )
    fused(stirred(model), x, how="graph")
    with pytest.raises(wnconvert.NothingToConvertError, match=r"'norm\.num_batches_tracked' is read elsewhere too"):
        wnconvert.fuse(model)
    whole = program(model, x)
    for each in (whole, whole.run_decompositions()):
        torch.testing.assert_close(wnconvert.fuse(each).program.module()(x), model(x))


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.randn(4, 4, dtype=torch.complex64), "its dtype complex64"),
        (torch.ones(4, 4, dtype=torch.int64), "its dtype int64"),
        (torch.full((4, 4), float("nan")), "it holds non-finite values"),
    ],
    ids=["complex", "integers", "not a number"],
)
def test_a_weight_of_another_kind_takes_in_nothing(weight: Tensor, reason: str):
    model = Calls(
        lambda self, x: torch.mm(x, self.weight) * self.gain,
        weight=nn.Buffer(weight),
        gain=nn.Parameter(torch.tensor(2.0)),
    ).eval()
    refused(model, reason, torch.ones(3, 4, dtype=weight.dtype))


@pytest.mark.parametrize(("factor", "dtype"), [(1e-6, torch.float16), (65504, torch.float16), (1e-40, torch.float32)])
def test_what_the_dtype_of_a_weight_cannot_hold_stays(factor: float, dtype: torch.dtype):
    model = Calls(lambda self, x: self.lin(x) * self.gain, lin=nn.Linear(4, 4), gain=gain(4)).to(dtype).eval()
    nn.init.uniform_(model.lin.weight, 1.1, 1.9)
    nn.init.constant_(model.gain, factor)
    refused(model, "is too large or too small for torch.float", torch.randn(3, 4, dtype=dtype))


@pytest.mark.parametrize("product", [torch.matmul, torch.Tensor.__matmul__])
@pytest.mark.parametrize("shape", [(4,), (2, 4, 4)], ids=["a vector", "many matrices"])
def test_a_product_with_no_matrix_is_no_layer(product: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]):
    model = stirred(
        Calls(lambda self, x: product(x.relu() * self.gain, self.weight), weight=gain(*shape), gain=gain(4))
    )
    refused(model, "no such normalization", torch.randn(3, 4, dtype=torch.float64))


def test_a_bias_that_was_deleted_comes_back():
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    del model[0].bias
    model[0].bias = None
    fused(model, torch.randn(2, 4, 5, 5, dtype=torch.float64))


def test_a_gain_that_is_computed_is_named_by_what_it_is_computed_from():
    model = stirred(
        Calls(lambda self, x: self.lin(F.rms_norm(x, (4,), 1 + self.gain)), lin=nn.Linear(4, 4), gain=gain(4))
    )
    made, _ = fused(model, torch.randn(3, 4, dtype=torch.float64), how="graph")
    assert list(made.state_dict()) == ["lin.weight", "lin.bias"]


def test_a_weight_that_is_a_buffer_keeps_no_gradients():
    model = Calls(
        lambda self, x: self.norm(F.conv2d(x, self.weight)),
        weight=nn.Buffer(torch.rand(4, 4, 3, 3)),
        norm=nn.BatchNorm2d(4),
    )
    made, _ = fused(stirred(model), torch.randn(2, 4, 5, 5, dtype=torch.float64), how="graph")
    assert not made.weight.requires_grad
    copy.deepcopy(made)


def test_a_model_without_values_is_fused_and_not_measured():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval().to("meta")
    x = torch.empty(2, 4, 5, 5, device="meta")
    assert wnconvert.fuse(model).model[0].weight.is_meta
    with pytest.raises(wnconvert.OptionError, match="there is nothing to measure"):
        wnconvert.fuse(model, example_inputs=(x,))
    _, report = wnconvert.fuse(program(model, x))
    assert report.measured is None
    assert any("the error was not measured" in note for note in report.notes)


def test_the_own_names_of_what_is_untied_are_free_ones():
    def forward(self: Any, x: Tensor) -> Any:
        return F.linear(F.embedding(x, self.weight).relu() * self.gain, self.weight) + self.weight_untied

    model = stirred(Calls(forward, weight=gain(9, 6), gain=gain(6), weight_untied=gain(9)))
    made, _ = fused(model, torch.tensor([[1, 2]]), how="graph", untie=True, fusions=["gain"])
    assert "weight_untied" in made.state_dict() or "weight_untied_1" in made.state_dict()
