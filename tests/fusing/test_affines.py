"""Which calls end in an affine map, and which map it is."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import wnconvert
from tests.fusing.checking import stirred
from wnconvert.fusing.affines import AffineCall, Affines, is_plain_batch_norm, rest_of


def calls(graph_module: GraphModule) -> list[AffineCall]:
    return list(Affines(graph_module))


@pytest.mark.parametrize(
    ("norm", "shape", "dim"),
    [
        (nn.BatchNorm1d(4), (2, 4), 1),
        (nn.BatchNorm2d(4), (2, 4, 3, 3), -3),
        (nn.LayerNorm(4), (2, 4), -1),
        (nn.RMSNorm(4), (2, 4), -1),
    ],
)
def test_a_module_and_what_export_makes_of_it_have_one_map(norm: nn.Module, shape: tuple[int, ...], dim: int):
    root = stirred(nn.Sequential(norm))
    program = torch.export.export(root, (torch.randn(shape, dtype=torch.float64),))
    own, *others = (
        calls(each)[-1] for each in (wnconvert.trace(root), program.module(), program.run_decompositions().module())
    )
    assert own.dim == dim
    for other in others:
        for a, b in ((own.affine.scale, other.affine.scale), (own.affine.shift, other.affine.shift)):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert other.tensors[-1].rpartition(".")[0] == "0"


def test_constants_that_vary_in_one_dim():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.rand(4))
            self.table = nn.Parameter(torch.rand(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.gamma.reshape(-1, 1, 1) + 2.0
            x = x * x.mean()  # depends on the data
            return x + self.table  # varies in two dims

    found = calls(wnconvert.trace(Model()))
    assert [(call.dim, call.affine.channels) for call in found] == [(-3, 4), (None, None)]


def test_a_norm_over_several_dims_has_no_gain_that_a_layer_reads():
    (call,) = calls(wnconvert.trace(nn.Sequential(nn.LayerNorm((3, 4)))))
    assert call.reason is not None
    assert call.reason.why is wnconvert.Why.SEVERAL_DIMS


def test_a_gain_that_depends_on_the_input_is_no_constant():
    class Conditional(nn.Module):
        def forward(self, x: Tensor, gain: Tensor) -> Tensor:
            return F.layer_norm(x, (4,), gain)

    (call,) = calls(wnconvert.trace(Conditional()))
    assert call.reason is not None
    assert call.reason == "its weight is computed from the input"


def test_a_batch_norm_with_a_forward_of_its_own_is_left_alone():
    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    assert is_plain_batch_norm(nn.BatchNorm2d(3))
    assert not is_plain_batch_norm(Own(3))
    assert rest_of(Own(3)) == []


@pytest.mark.oracle
def test_what_timms_batch_norms_call_besides():
    timm = pytest.importorskip("timm")
    norm = timm.layers.BatchNormAct2d(3)
    assert is_plain_batch_norm(norm)
    assert rest_of(norm) == ["drop", "act"]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.LayerNorm(5)])
def test_a_decomposed_program_that_was_loaded_takes_out_what_it_does_not_use(norm: nn.Module):
    model = stirred(nn.Sequential(nn.Conv2d(4, 4, 1), norm, nn.Linear(5, 2)))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)).run_decompositions(), file)
    file.seek(0)
    fused, report = wnconvert.fuse(torch.export.load(file))
    assert [entry.fqn.partition(".")[0] for entry in report.fused] == ["1"]
    torch.testing.assert_close(fused.module()(x), model(x))


def test_statistics_that_are_used_stay():
    class Model(nn.Module):
        def forward(self, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
            y, mean, _ = torch.ops.aten.native_layer_norm.default(x, [4], gain, None, 1e-5)
            return y, mean

    (call,) = calls(torch.export.export(Model(), (torch.randn(2, 4), torch.randn(4))).module())
    assert call.reason == "a statistic of it is read elsewhere too"


def test_a_norm_that_is_not_initialized_has_no_map():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.LazyBatchNorm2d()).eval()
    with pytest.raises(wnconvert.NothingToConvertError):
        wnconvert.fuse(model, inplace=True)
    with pytest.raises(wnconvert.CopyError, match="uninitialized parameter"):
        wnconvert.fuse(model)
