"""Fused batch norms beside those of torch: as near to float64, and right where torch's are silently wrong."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.fusing.checking import stirred

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch 2.13 imports its own TorchScript there, which it has deprecated
    from torch.fx.experimental.optimization import fuse as torch_fuse


class Twice(nn.Module):
    """One convolution that is called twice, with a batch norm for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.conv(self.a(self.conv(x)).relu()))


def error(model: nn.Module, exact: Tensor, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).double() - exact).norm() / exact.norm())


def test_a_convolution_that_is_called_twice_is_fused_wrongly_by_torch_and_refused_here():
    model, x = stirred(Twice()), torch.randn(2, 4, 7, 7, dtype=torch.float64)
    exact = model(x)
    assert error(torch_fuse(copy.deepcopy(model)), exact, x) > 0.1
    with pytest.raises(wnconvert.NothingToConvertError, match=r"'conv\.weight' is read 2 times"):
        wnconvert.fuse(model, example_inputs=(x,))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_fused_wrongly_by_inductor_when_it_freezes(groups: int):
    """With as many channels in as out nothing fails there; the scale goes along the wrong dim. pytorch#180995."""
    import torch._inductor.config as inductor

    model = stirred(nn.Sequential(nn.ConvTranspose2d(8, 8, 3, groups=groups), nn.BatchNorm2d(8))).float()
    x = torch.randn(2, 8, 7, 7)
    exact = copy.deepcopy(model).double()(x.double())
    with torch.no_grad(), inductor.patch(freezing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        frozen = error(torch.compile(copy.deepcopy(model)), exact, x)
    fused, report = wnconvert.fuse(model, example_inputs=(x,))
    assert len(report.fused) == 1
    assert error(fused, exact, x) < 1e-6
    # a version of torch that mends this makes the comparison say so
    assert frozen > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_chain_of_convolutions_is_as_near_to_float64_as_it_was(dtype: torch.dtype):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(6)]
    model, x = stirred(nn.Sequential(*blocks)).to(dtype), torch.randn(2, 8, 16, 16).to(dtype)
    _, report = wnconvert.fuse(model, example_inputs=(x,))
    assert len(report.fused) == 6
    assert report.measured is not None
    # which of the two is nearer is chance: the weights are rounded once more, and each activation once less
    assert report.measured.fused < 4 * report.measured.unfused
