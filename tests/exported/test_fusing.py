"""The fuse on exported programs."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export, load, save

import wnconvert
from tests.fusing.checking import into, reasons, stirred


class Net(nn.Module):
    """A batch norm behind a convolution without a bias, one before a linear layer, and a gain that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.before = nn.BatchNorm1d(6)
        self.lin = nn.Linear(6, 8)
        self.gain = nn.LayerNorm(8)
        self.a, self.b = nn.Linear(8, 4, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu().mean((2, 3))
        y = self.gain(self.lin(self.before(y)))
        return self.a(y) + self.b(y)


EXPECTED = {
    "norm": ("conv.weight",),
    "before": ("lin.weight",),
    "gain": ("a.weight", "b.weight"),
}


def program(decomposed: bool = False) -> tuple[nn.Module, ExportedProgram]:
    model, x = stirred(Net()), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    dims = {"x": {0: Dim("batch"), 2: Dim("height", min=4), 3: Dim("width", min=4)}}
    exported = export(model, (x,), dynamic_shapes=dims)
    return model, exported.run_decompositions() if decomposed else exported


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
def test_a_program_in_gives_a_program_out(decomposed: bool):
    model, exported = program(decomposed)
    state = list(exported.state_dict)
    fused, report = wnconvert.fuse(exported)
    assert into(report) == EXPECTED
    assert reasons(report) == {}
    assert list(exported.state_dict) == state
    assert list(fused.state_dict) == [
        *("conv.weight", "conv.bias", "lin.weight", "lin.bias", "a.weight", "a.bias", "b.weight", "b.bias")
    ]
    buffer = io.BytesIO()
    save(fused, buffer)
    buffer.seek(0)
    for each in (fused, load(buffer)):
        for size in (9, 12):
            x = torch.randn(5, 3, size, size + 1, dtype=torch.float64)
            torch.testing.assert_close(each.module()(x), model(x), rtol=1e-10, atol=1e-10)
    assert report.measured is not None
    assert report.measured.fused < 1e-14
    assert report.measured.inputs == "given"
    fused.run_decompositions()


def test_the_channels_of_a_batch_norm_are_where_the_shapes_say():
    model = stirred(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    _, report = wnconvert.fuse(export(model, (torch.randn(3, 5, dtype=torch.float64),)))
    assert into(report) == {"1": ("0.weight",)}
    with pytest.raises(wnconvert.NothingToConvertError, match="it has 6 channels in dim -2"):
        wnconvert.fuse(export(model, (torch.randn(2, 6, 5, dtype=torch.float64),)))


def test_a_program_in_training_has_no_constants_to_fuse():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    with pytest.raises(wnconvert.NothingToConvertError, match="it normalizes by the statistics of its batch"):
        wnconvert.fuse(export(model, (torch.randn(2, 3, 5, 5),)))


class Casting(nn.Module):
    """RMS norm as language models write it, with the gain in the dtype of the model or around one."""

    def __init__(self, around_one: bool) -> None:
        super().__init__()
        self.weight, self.around_one = nn.Parameter(torch.randn(8)), around_one
        self.lin = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        if self.around_one:
            return self.lin((wide * (1.0 + self.weight.float())).type_as(x))
        return self.lin(self.weight * wide.to(x.dtype))


@pytest.mark.parametrize("around_one", [True, False])
def test_norms_that_are_written_out_in_half_precision(around_one: bool):
    torch.manual_seed(0)
    model = Casting(around_one).bfloat16().eval()
    fused, report = wnconvert.fuse(export(model, (torch.randn(4, 8).bfloat16(),)))
    assert into(report) == {"weight": ("lin.weight",)}
    assert list(fused.state_dict) == ["lin.weight"]
    assert report.measured is not None
    assert report.measured.dtype == "bfloat16"
    # one rounding less than before: no farther from float64
    assert report.measured.fused <= 1.5 * report.measured.unfused


def test_inputs_are_made_where_a_program_has_none():
    _, exported = program()
    exported._example_inputs = None  # as in a program that was saved without
    _, report = wnconvert.fuse(exported)
    assert report.measured is not None
    assert report.measured.inputs == "random"


@pytest.mark.parametrize("inputs", [(), (torch.randn(2, 7),)])
def test_inputs_that_do_not_fit(inputs: tuple[Any, ...]):
    with pytest.raises(wnconvert.OptionError):
        wnconvert.fuse(program()[1], example_inputs=inputs)
