"""wnconvert.apply and fold of what cannot be converted: an error that says why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wnconvert
from tests.models import build
from tests.weights.nets import One, param
from wnconvert.tracing.tracing import trace


@pytest.mark.parametrize("convert", [wnconvert.apply, wnconvert.fold])
def test_a_model_without_weighted_ops_is_an_error(convert):
    with pytest.raises(wnconvert.NothingToConvertError, match="nothing to convert: the model has no weighted op"):
        convert(nn.Sequential(nn.ReLU()))


def test_a_selection_of_nothing_is_an_error_that_says_why():
    with pytest.raises(wnconvert.NothingToConvertError, match="not included by 'nowhere'"):
        wnconvert.apply(build("conv")[0], selection=wnconvert.Selection(include=("nowhere",)))


def test_a_dim_that_no_weight_has_is_an_error_that_says_why():
    with pytest.raises(wnconvert.NothingToConvertError, match="has no dim 7"):
        wnconvert.apply(build("conv")[0], dim=7)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("how", ["module", "graph"])
def test_what_cannot_be_converted_is_in_the_report_of_what_can(how):
    lazy, compiled, tiny = nn.LazyLinear(4), torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 4)
    tiny.weight = nn.Parameter(tiny.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    model = nn.Sequential(lazy, compiled, tiny, nn.Linear(4, 4))
    report = wnconvert.apply(model, how=how).report
    assert [entry.fqn for entry in report.converted] == ["3.weight"]
    assert {entry.fqn: entry.reason for entry in report.skipped} == {
        "0.weight": "it is not initialized yet; run the model once",
        "1.weight": "the TorchScript module '1' holds it, whose code is fixed",
        "2.weight": "its dtype float8_e4m3fn is none that a scheme can compute with",
    }


def test_a_model_of_buffers_is_an_error_that_says_why():
    model = One(lambda self, x: F.linear(x, self.w))
    model.register_buffer("w", torch.randn(3, 3))
    with pytest.raises(wnconvert.NothingToConvertError, match="w: it is a buffer, which is not trained"):
        wnconvert.apply(model)


def test_an_expression_that_cannot_be_folded_is_an_error_that_says_why():
    model = One(lambda self, x: F.linear(x, F.dropout(self.w, 0.5, True)), w=param(5, 3))
    with pytest.raises(wnconvert.NothingToConvertError, match="w: it is random"):
        wnconvert.fold(model)


def test_an_unknown_scheme_is_an_error_that_suggests():
    with pytest.raises(wnconvert.UnknownNameError, match="did you mean 'spectral_norm'"):
        wnconvert.apply(build("conv")[0], "spectral_nrom")


def test_what_cannot_be_traced_is_one_clear_line():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(wnconvert.TracingError) as caught:
        trace(Branching())
    assert "\n" not in str(caught.value)
    assert "it takes a decision on a value" in str(caught.value)
