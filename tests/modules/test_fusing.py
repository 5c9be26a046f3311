"""The fuse in live modules, also where no graph shows the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.fusing.checking import fused, into, reasons, stirred


class Deciding(nn.Module):
    """A model without a graph, around parts that have one."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[0](x) if x.sum() > -1e9 else x


def block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


@pytest.mark.parametrize("container", [nn.Sequential, lambda *parts: nn.ModuleList(parts)])
def test_parts_are_fused_where_the_fused_model_can_be_measured(container):
    model, x = stirred(Deciding(container(block()))), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    with pytest.raises(
        wnconvert.NothingToConvertError, match="no graph shows what stands beside it; give example inputs"
    ):
        wnconvert.fuse(model)
    made, report = fused(model, x, given=True)
    assert type(made) is Deciding
    assert into(report) == {"parts.0.1": ("parts.0.0.weight",)}
    assert any("looked at part by part" in note for note in report.notes)
    assert report.measured is not None
    assert report.measured.fused < 1e-14


class Peeking(nn.Module):
    """A module without a graph that reads a weight of its part directly."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) * self.block[0].weight.sum() if x.sum() > -1e9 else x


def test_what_a_module_without_a_graph_does_with_a_weight_shows_in_the_measure():
    model, x = stirred(Peeking()), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    with pytest.raises(wnconvert.VerificationError, match="the fused model is off by"):
        wnconvert.fuse(model, example_inputs=(x,))


def test_shapes_are_known_in_parts_too():
    parts = nn.Sequential(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    model, x = stirred(Deciding(parts)), torch.randn(3, 5, dtype=torch.float64)
    _, report = fused(model, x, given=True)
    assert into(report) == {"parts.0.1": ("parts.0.0.weight",)}


def test_a_shared_batch_norm_stays_where_it_is_called_twice():
    norm = nn.BatchNorm2d(4)
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 1), norm))
    with pytest.raises(wnconvert.NothingToConvertError, match="'1' is called 2 times"):
        wnconvert.fuse(model)


def test_a_block_that_is_called_twice_is_no_pair_for_one_call():
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model = stirred(nn.Sequential(shared, nn.ReLU(), shared))
    with pytest.raises(wnconvert.NothingToConvertError, match=r"'0\.1' is called 2 times"):
        wnconvert.fuse(model)


def test_what_is_not_near_leaves_the_model_as_it_was_in_place_too():
    model, x = stirred(Peeking()), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = model(x)
    with pytest.raises(wnconvert.VerificationError, match="it was not kept"):
        wnconvert.fuse(model, example_inputs=(x,), inplace=True)
    assert isinstance(model.block[1], nn.BatchNorm2d)
    assert torch.equal(model(x), expected)


class Counting(nn.Module):
    """A model that writes to its input, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.block = block()
        self.calls: torch.Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1.0)
        return self.block(x.mul_(2.0))


@pytest.mark.parametrize("how", ["module", "graph"])
@pytest.mark.parametrize("inplace", [False, True])
def test_neither_the_inputs_nor_the_state_of_the_model_are_touched(how: str, inplace: bool):
    model, x = stirred(Counting()), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    model.calls.zero_()
    kept = x.clone()
    try:
        made, _ = wnconvert.fuse(model, example_inputs=(x,), inplace=inplace, how=how)
    except wnconvert.TracingError:
        made = model
    assert torch.equal(x, kept)
    assert float(model.calls) == float(made.calls) == 0


def test_in_place_is_the_model_itself_also_where_it_is_measured():
    model, x = stirred(block()), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = model(x)
    made, report = wnconvert.fuse(model, example_inputs=(x,), inplace=True)
    assert made is model
    assert isinstance(model[1], nn.Identity)
    assert report.measured is not None
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_inplace_and_modes():
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    made, _ = wnconvert.fuse(model, inplace=True)
    assert made is model
    assert isinstance(model[1], nn.Identity)
    assert not model[1].training


@pytest.mark.oracle
def test_the_activation_of_timms_batch_norm_stays():
    timm = pytest.importorskip("timm")
    model = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.BatchNormAct2d(4), nn.Conv2d(4, 4, 1)))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    for how in ("module", "graph"):
        _, report = fused(model, x, how=how)
        assert into(report) == {"1": ("0.weight",)}
    # before a layer, the activation stands between them
    alone = stirred(nn.Sequential(nn.ReLU(), timm.layers.BatchNormAct2d(3), nn.Conv2d(3, 4, 1)))
    with pytest.raises(wnconvert.NothingToConvertError, match="no linear layer or convolution stands beside it"):
        wnconvert.fuse(alone)
    assert reasons(fused(model, x)[1]) == {}
