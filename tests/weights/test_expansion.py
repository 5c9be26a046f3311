"""Every row of the table of modules, in every form of call: converted to the bit, and folded to the very same graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.snapshot import Snapshot, assert_same_outputs, outputs_of
from tests.helpers import sample
from wnconvert import ApplyPass, FoldPass, find_weighted_ops
from wnconvert.tracing.tracing import trace
from wnconvert.weights import expansion

IDS = torch.tensor([[1, 3, 0], [2, 2, 4]])
FLAT, OFFSETS = torch.tensor([1, 3, 0, 2, 2, 4]), torch.tensor([0, 2])
IMAGE = {1: (2, 4, 7), 2: (2, 4, 7, 6), 3: (1, 4, 5, 4, 6)}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _x(*shape: int) -> Tensor:
    return sample(*shape, seed=3).float()


@dataclass(frozen=True)
class Call:
    """A module, how it is called, and the output dims of its weight."""

    id: str
    module: nn.Module
    args: tuple[Any, ...]
    dims: tuple[int, ...] | None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def build(self) -> tuple[Any, tuple[Tensor, ...]]:
        """Return a traced model that makes the call, and its inputs."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = copy.deepcopy(self.module)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        model = _Model(module, len(self.args), tuple(self.kwargs))
        given = [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]
        constants = [None if isinstance(value, Tensor) else value for value in (*self.args, *self.kwargs.values())]
        model.constants = tuple(constants)
        return trace(model.eval()), tuple(given)


class _Model(nn.Module):
    def __init__(self, module: nn.Module, positional: int, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.layer = module
        self.positional, self.keywords = positional, keywords
        self.constants: tuple[Any, ...] = ()

    def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        inputs = iter((x, y, z))
        values = [next(inputs) if constant is None else constant for constant in self.constants]
        values = [
            value(x) if callable(value) and not isinstance(value, (Tensor, torch.fx.Proxy)) else value
            for value in values
        ]
        split = self.positional
        return self.layer(*values[:split], **dict(zip(self.keywords, values[split:], strict=True)))


class MyLinear(nn.Linear):
    """A subclass that computes as its base does."""


class MyConv(nn.Conv2d):
    """A subclass with other defaults."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.note = "mine"


class Doubled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def _calls() -> list[Call]:
    calls = [
        Call("linear", nn.Linear(3, 5), (_x(2, 3),), (0,)),
        Call("linear without bias", nn.Linear(3, 5, bias=False), (_x(2, 3),), (0,)),
        Call("linear by keyword", nn.Linear(3, 5), (), (0,), {"input": _x(2, 3)}),
        Call("linear of a subclass", MyLinear(3, 5), (_x(2, 3),), (0,)),
        Call("bilinear", nn.Bilinear(3, 4, 5), (_x(2, 3), _x(2, 4)), (0,)),
        Call("bilinear half by keyword", nn.Bilinear(3, 4, 5), (_x(2, 3),), (0,), {"input2": _x(2, 4)}),
        Call("bilinear without bias", nn.Bilinear(3, 4, 5, bias=False), (_x(2, 3), _x(2, 4)), (0,)),
        Call("embedding", nn.Embedding(5, 3), (IDS,), (1,)),
        Call("embedding with padding", nn.Embedding(5, 3, padding_idx=2), (IDS,), (1,)),
        Call("embedding scaled by frequency", nn.Embedding(5, 3, scale_grad_by_freq=True), (IDS,), (1,)),
        Call("bag", nn.EmbeddingBag(5, 3), (IDS,), (1,)),
        Call("bag with offsets", nn.EmbeddingBag(5, 3, mode="max"), (FLAT, OFFSETS), (1,)),
        Call("bag with offsets by keyword", nn.EmbeddingBag(5, 3), (FLAT,), (1,), {"offsets": OFFSETS}),
        Call("bag of all", nn.EmbeddingBag(5, 3, mode="sum"), (FLAT, OFFSETS, _x(6)), (1,)),
        Call(
            "bag of weights by keyword",
            nn.EmbeddingBag(5, 3, mode="sum", include_last_offset=True),
            (FLAT,),
            (1,),
            {"offsets": torch.tensor([0, 2, 6]), "per_sample_weights": _x(6)},
        ),
        Call(
            "bag of weights without offsets",
            nn.EmbeddingBag(5, 3, mode="sum"),
            (IDS,),
            (1,),
            {"per_sample_weights": _x(2, 3)},
        ),
        Call("conv of a subclass", MyConv(4, 6), (_x(*IMAGE[2]),), (0,)),
    ]
    for n in (1, 2, 3):
        x = _x(*IMAGE[n])
        calls += [
            Call(f"conv{n}d padded by {mode}", CONVS[n](4, 6, 3, padding=1, padding_mode=mode), (x,), (0,))
            for mode in ("zeros", "circular", "reflect", "replicate")
        ]
        calls += [
            Call(f"conv{n}d same", CONVS[n](4, 6, 3, padding="same"), (x,), (0,)),
            Call(f"conv{n}d same and reflected", CONVS[n](4, 6, 3, padding="same", padding_mode="reflect"), (x,), (0,)),
            Call(f"conv{n}d valid", CONVS[n](4, 6, 3, padding="valid"), (x,), (0,)),
            Call(f"conv{n}d grouped", CONVS[n](4, 6, 3, groups=2, stride=2), (x,), (0,)),
            Call(f"conv{n}d dilated without bias", CONVS[n](4, 6, 2, dilation=2, bias=False), (x,), (0,)),
            Call(f"conv{n}d by keyword", CONVS[n](4, 6, 2), (), (0,), {"input": x}),
            Call(f"conv_transpose{n}d", TRANSPOSED[n](4, 6, 3, stride=2, padding=1), (x,), (1,)),
            Call(f"conv_transpose{n}d dilated", TRANSPOSED[n](4, 6, 2, dilation=2, bias=False), (x,), (1,)),
            Call(f"conv_transpose{n}d grouped", TRANSPOSED[n](4, 6, 3, groups=2), (x,), None),
            Call(f"conv_transpose{n}d depthwise", TRANSPOSED[n](4, 4, 3, groups=4), (x,), (0,)),
            Call(f"conv_transpose{n}d output padding", TRANSPOSED[n](4, 6, 3, stride=2, output_padding=1), (x,), (1,)),
        ]
        # a stride of 2 leaves it open by one how large the output is
        sizes = tuple((size - 1) * 2 + 2 for size in IMAGE[n][2:])
        module = TRANSPOSED[n](4, 6, 3, stride=2, padding=1)
        calls += [
            Call(f"conv_transpose{n}d output size", module, (x, sizes), (1,)),
            Call(f"conv_transpose{n}d output size as a list", module, (x, list(sizes)), (1,)),
            Call(f"conv_transpose{n}d output size by keyword", module, (x,), (1,), {"output_size": sizes}),
            Call(f"conv_transpose{n}d full output size", module, (x, (IMAGE[n][0], 6, *sizes)), (1,)),
            Call(f"conv_transpose{n}d all by keyword", module, (), (1,), {"input": x, "output_size": sizes}),
        ]
    return calls


CALLS = _calls()
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.id)


def test_no_module_is_untested():
    assert {type(call.module) for call in CALLS} - {MyLinear, MyConv} == set(expansion.MODULES)


@each_call
def test_the_weight_is_found_with_its_output_dims(call):
    model, _ = call.build()
    (found,) = find_weighted_ops(model)
    rule = expansion.rule_of_module(call.module)
    assert (found.fqn, found.ops, found.output_dims) == ("layer.weight", (rule.name,), call.dims)


@each_call
def test_a_round_trip_gives_the_same_outputs_and_the_very_same_graph(call):
    model, inputs = call.build()
    before, expected = Snapshot(model), outputs_of(model, inputs)
    module = model.layer
    assert ApplyPass().call(model).modified
    assert all(node.op != "call_module" for node in model.graph.nodes)
    assert model.layer is module
    assert_same_outputs(outputs_of(model, inputs), expected)
    assert FoldPass().call(model).modified
    before.assert_same(model)
    assert model.layer is module
    assert_same_outputs(outputs_of(model, inputs), expected)


@each_call
def test_gradients_of_all_but_the_weight_are_the_same(call):
    model, inputs = call.build()
    converted = copy.deepcopy(model)
    ApplyPass().call(converted)
    for each in (model, converted):
        each(*inputs).square().sum().backward()
    bias = getattr(model.layer, "bias", None)
    if bias is not None:
        assert torch.equal(converted.layer.bias.grad, bias.grad)
        assert bias.grad.count_nonzero() > 0
    assert converted.layer.weight_g.grad.count_nonzero() > 0


class _SizeOf(nn.Module):
    def __init__(self, slice_):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1)
        self.slice = slice_

    def forward(self, x, like):
        size = like.size()
        return self.up(x, size[-2:] if self.slice else output_size_of(size))


def output_size_of(size):
    return (size[2], size[3])


@pytest.mark.parametrize("slice_", [False, True])
def test_the_output_size_may_be_that_of_another_tensor(slice_):
    model = trace(_SizeOf(slice_).eval())
    for sizes in ((13, 11), (14, 12)):
        inputs = (_x(*IMAGE[2]), torch.zeros(1, 1, *sizes))
        before, expected = Snapshot(model), outputs_of(model, inputs)
        assert ApplyPass().call(model).modified
        assert_same_outputs(outputs_of(model, inputs), expected)
        assert expected[0].shape[2:] == sizes
        FoldPass().call(model)
        before.assert_same(model)


def test_a_full_size_of_another_tensor_may_be_the_output_size():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1)

        def forward(self, x, like):
            return self.up(x, output_size=like.size())

    model = trace(Whole().eval())
    inputs = (_x(*IMAGE[1]), torch.zeros(1, 1, 14))
    before, expected = Snapshot(model), outputs_of(model, inputs)
    assert ApplyPass().call(model).modified
    assert_same_outputs(outputs_of(model, inputs), expected)
    FoldPass().call(model)
    before.assert_same(model)


def test_a_subclass_with_another_forward_is_no_weighted_op():
    assert expansion.rule_of_module(Doubled(3, 3)) is None


def test_a_module_of_another_class_is_no_weighted_op():
    assert expansion.rule_of_module(nn.LSTM(3, 3)) is None


HOOKS = {
    "forward": lambda module: module.register_forward_hook(lambda *_: None),
    "forward_pre": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "full_backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "full_backward_pre": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_module_with_hooks_stays_a_module(hook):
    module = nn.Linear(3, 3)
    assert expansion.reason_against(module) is None
    HOOKS[hook](module)
    assert "hooks" in expansion.reason_against(module)


def test_two_modules_alike_share_a_template_and_two_unlike_do_not():
    facts = expansion._facts
    assert facts(nn.Conv2d(3, 4, 3)) == facts(nn.Conv2d(3, 4, 3)) == facts(MyConvLike(3, 4, 3))
    assert facts(nn.Conv2d(3, 4, 3)) != facts(nn.Conv2d(3, 4, 3, stride=2))
    assert facts(nn.Conv2d(3, 4, 3)) != facts(nn.Conv2d(3, 4, 3, bias=False))
    assert facts(nn.Conv2d(3, 4, 3, padding=1)) != facts(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"))


class MyConvLike(nn.Conv2d):
    """A subclass that adds nothing."""


@pytest.mark.parametrize("method", ["forward", "_conv_forward"])
def test_a_module_with_a_method_of_its_own_stays_a_module(method):
    module = nn.Conv2d(3, 4, 3)
    assert expansion.rule_of_module(module) is not None
    setattr(module, method, lambda *args: args[0])
    assert expansion.rule_of_module(module) is None


def test_what_a_reflecting_convolution_pads_is_part_of_what_its_expansion_depends_on():
    module = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect").eval()
    trace(nn.Sequential(copy.deepcopy(module)))
    ApplyPass().call(trace(nn.Sequential(copy.deepcopy(module))))
    module._reversed_padding_repeated_twice = [2, 2, 2, 2]
    model = trace(nn.Sequential(module))
    expected = outputs_of(model, (x := _x(1, 3, 5, 5),))
    ApplyPass().call(model)
    assert_same_outputs(outputs_of(model, (x,)), expected)


def test_a_function_call_is_not_collapsed_into_a_module():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 5)

        def forward(self, x):
            return F.linear(x, self.layer.weight, self.layer.bias)

    model = trace(Held())
    before = Snapshot(model)
    ApplyPass().call(model)
    FoldPass().call(model)
    before.assert_same(model)
