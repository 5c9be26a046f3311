"""Tracing that does not give up, keeps what is plain, and leaves no trace in the model or in the process."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from tests.tracing.behaviour import assert_same
from tests.tracing.cases import Deciding, Network, X, model_of
from wnconvert.errors import TracingError
from wnconvert.tracing.tracing import trace


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """A helper that inspects its argument, which a proxy cannot answer."""
    total = max(kernel - 1 - x.shape[-1] % 2, 0)
    return F.pad(x, (total // 2, total - total // 2))


def split_in_two(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[1] % 2:
        raise ValueError("odd")
    return x[:, ::2], x[:, 1::2]


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_same(x, 3))


def calls_of(graph_module: nn.Module, kind: str) -> list[object]:
    return [node.target for node in graph_module.graph.nodes if node.op == kind]


# what becomes one node


def test_a_helper_that_inspects_shapes_becomes_one_node() -> None:
    model = Same()
    with pytest.raises(Exception, match=r"traced|Proxy|interpreted"):
        torch.fx.symbolic_trace(model)
    before, globals_before = pad_same, dict(globals())
    graph_module = trace(model)
    assert calls_of(graph_module, "call_function") == [pad_same]
    assert not graph_module.meta["opaque"]
    for length in (9, 10):
        x = torch.randn(1, 2, length)
        assert torch.equal(graph_module(x), model(x))
    assert pad_same is before
    assert globals() == globals_before


def test_a_function_of_math_becomes_one_node() -> None:
    def forward(self, x):
        return self.fc(x) * math.sqrt(x.shape[1])

    graph_module = assert_same(model_of(forward), (X,))
    assert math.sqrt in calls_of(graph_module, "call_function")


def test_a_module_that_takes_decisions_becomes_one_node() -> None:
    model = Network(Deciding(), nn.ReLU())
    graph_module = trace(model)
    assert graph_module.meta["opaque"] == {"layers.0": "it takes a decision on a value (a condition)"}
    assert calls_of(graph_module, "call_module") == ["before", "layers.0", "layers.1", "after"]
    for x in (torch.randn(2, 4), torch.full((2, 4), 1e10)):
        assert torch.equal(graph_module(x), model(x))


def test_the_innermost_module_is_the_one_node() -> None:
    model = Network(nn.Sequential(nn.Linear(4, 4), nn.Sequential(Deciding())))
    assert list(trace(model).meta["opaque"]) == ["layers.0.1.0"]


class Pair(nn.Module):
    """It returns what a helper makes that inspects its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return split_in_two(self.first(x))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part for part in self.pair(x)], 1)  # noqa: C416 - iterating is what fails


def test_a_caller_that_cannot_use_one_node_becomes_one_itself() -> None:
    model, x = Network(Sum()), torch.randn(3, 4)
    graph_module = trace(model)
    assert "layers.0" in graph_module.meta["opaque"]
    assert torch.equal(graph_module(x), model(x))


def test_a_caller_that_unpacks_one_node_need_not_be_one() -> None:
    class Unpacking(Sum):
        def forward(self, x: Tensor) -> Tensor:
            a, b = self.pair(x)
            return torch.cat((a, b), 1)

    model, x = Network(Unpacking()), torch.randn(3, 4)
    graph_module = trace(model)
    assert list(graph_module.meta["opaque"]) == ["layers.0.pair"]
    assert torch.equal(graph_module(x), model(x))


# what is kept


def _alias(self, x: Tensor):
    y = alias = self.fc(x)
    y += 1
    return y * alias


def _update(self, x: Tensor):
    self.mean += x.detach().mean(0)
    return self.fc(x) + self.mean


def _update_by_method(self, x: Tensor):
    self.mean.lerp_(x.detach().mean(0), 0.1)
    return self.fc(x) + self.mean


def _constants(self, x: Tensor, scale: float = 1.0):
    return self.fc(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]) * scale


def _attention(self, x: Tensor, mask=None):
    x = self.fc(x).unsqueeze(0)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def _causal(self, x: Tensor, causal: bool = False):
    x = self.fc(x).unsqueeze(0)
    return F.scaled_dot_product_attention(x, x, x, is_causal=causal)


def _shapes(self, x: Tensor):
    assert self.fc.weight.size(1) == self.fc.weight.size()[-1] == len(self.mean)
    if self.fc.weight.dim() == 2 and self.mean.shape[0] == self.mean.numel():
        x = self.fc(x)
    return x.view(x.shape[0], -1, 2).reshape(x.size(0), 4)


def _in_place(self, x: Tensor):
    y = self.fc(x)
    y.mul_(2)
    return F.relu(y, inplace=True)


def _unpacked(self, x: Tensor):
    (rows, columns), (a, b) = x.shape, self.fc(x).chunk(2, 1)
    return torch.cat((b, a), 1).view(columns, rows)


def _drawn(self, x: Tensor):
    return self.fc(x) + torch.randn_like(x) + x.new_zeros(4).normal_() * 0 + F.dropout(x, 0.5, True)


def _dtype(self, x: Tensor):
    return self.fc(x).to(self.mean.dtype) + torch.arange(4, dtype=torch.float32)


def _dictionary(self, x: Tensor):
    return {"y": [self.fc(x), x], "n": 3, "none": None}


KEPT = {
    "a sum through another name": (_alias, [(X,)]),
    "an update of a buffer": (_update, [(X,)]),
    "an update by a method": (_update_by_method, [(X,)]),
    "constants": (_constants, [(X,), (X, 0.5)]),
    "a mask": (_attention, [(X,), (X, torch.ones(3, 3).tril().bool())]),
    "a flag handed on": (_causal, [(X,), (X, True)]),
    "shapes": (_shapes, [(X,)]),
    "in place": (_in_place, [(X,)]),
    "unpacking": (_unpacked, [(X,)]),
    "random functions of a value": (_drawn, [(X,)]),
    "dtypes": (_dtype, [(X,)]),
    "a dictionary": (_dictionary, [(X,)]),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_plain_is_in_the_graph(name: str) -> None:
    forward, calls = KEPT[name]
    graph_module = assert_same(model_of(forward), *calls)
    assert not graph_module.meta["opaque"]
    assert calls_of(graph_module, "call_module") == ["fc"]


def test_a_plain_tensor_attribute_is_no_key_and_not_cast() -> None:
    def prepare(self):
        self.mask = torch.rand(4, 4)

    def forward(self, x: Tensor):
        return self.fc(x) @ self.mask.to(x.dtype)

    graph_module = assert_same(model_of(forward, prepare))
    assert "mask" not in graph_module.state_dict()
    assert graph_module.half().mask.dtype == torch.float32


def test_shapes_of_own_tensors_are_known_and_their_dtype_is_not_fixed() -> None:
    assert trace(model_of(_dtype)()).double()(X.double()).dtype == torch.float64


@pytest.mark.parametrize("dropout", [F.dropout, F.dropout1d, F.alpha_dropout, F.feature_alpha_dropout])
def test_a_dropout_of_the_root_follows_its_mode(dropout) -> None:
    def forward(self, x):
        return dropout(self.fc(x), 0.5, self.training)

    graph_module = assert_same(model_of(forward))
    assert calls_of(graph_module, "call_module") == ["fc", "dropout_0"]
    assert list(graph_module.state_dict()) == ["mean", "fc.weight", "fc.bias"]
    for training in (True, False):
        torch.manual_seed(0)
        y = graph_module.train(training)(X)
        assert torch.equal(y, graph_module.fc(X)) is not training


def test_a_dropout_of_another_module_is_told_the_mode_there() -> None:
    def forward(self, x):
        return F.dropout(self.fc(x), 0.5, self.training)

    graph_module = assert_same(lambda: Network(model_of(forward)()))
    assert list(graph_module.meta["opaque"]) == ["layers.0"]


def test_annotations_do_not_hinder_pickling() -> None:
    # this file has them as texts, and with "|"
    class Annotated(nn.Linear):
        def forward(self, input: Tensor, scale: Tensor | None = None) -> Tensor:
            return super().forward(input)

    assert all(node.type is None for node in trace(Annotated(2, 2)).graph.nodes)


# optional arguments


class Masked(nn.Module):
    """What it computes depends on whether a mask is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.inner(x)
        return x if mask is None else x * mask


class Keywords(Masked):
    def forward(self, x: Tensor, **options: Tensor) -> Tensor:
        mask = options.get("mask")
        return self.inner(x) if mask is None else self.inner(x) * mask


@pytest.mark.parametrize("kind", [Masked, Keywords])
def test_a_model_that_decides_by_an_optional_argument_has_no_graph(kind: type[Masked]) -> None:
    """A graph of either way would be wrong for half of the calls."""
    model, x, mask = kind(), torch.randn(2, 4), torch.randn(2, 4)
    with pytest.raises(TracingError, match="depends on which optional arguments are given"):
        trace(model)
    applied, report = wnconvert.apply(model)
    assert [entry.how for entry in report.converted] == ["in place"]
    assert torch.equal(applied(x), model(x))
    assert torch.equal(applied(x, mask=mask), model(x, mask=mask))


def test_of_many_optional_arguments_each_is_tried() -> None:
    def forward(self, x, a=None, b=None, c=None, d=None, e=None, f=None, g=None):
        return self.fc(x) if g is None else x

    with pytest.raises(TracingError, match="depends on which optional arguments are given"):
        trace(model_of(forward)())


def test_whether_a_flag_is_one_may_not_be_asked() -> None:
    def forward(self, x: Tensor, flag: bool = False):
        return x if isinstance(flag, bool) else self.fc(x)

    with pytest.raises(TracingError, match="depends on which optional arguments are given"):
        trace(model_of(forward)())
