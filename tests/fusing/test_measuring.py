"""The distance of two models from the exact result."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from wnconvert.fusing.measuring import in_double, measure, require_near
from wnconvert.report import Measured


def test_the_error_is_that_of_the_outputs_against_float64():
    torch.manual_seed(0)
    model, x = nn.Linear(50, 50).bfloat16(), torch.randn(8, 50).bfloat16()
    other = copy.deepcopy(model)
    other.weight.data[0] *= 2
    measured = measure(model, other, (x,))
    exact = copy.deepcopy(model).double()(x.double())
    for error, each in ((measured.unfused, model), (measured.fused, other)):
        assert error == pytest.approx(float(((each(x).double() - exact).norm() / exact.norm()).detach()))
    assert measured.unfused < 5e-3 < measured.fused
    assert (measured.dtype, measured.inputs) == ("bfloat16", "given")


def test_a_graph_computes_in_float64_though_it_names_another_dtype():
    class Casting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.float().to(torch.float16) * torch.ones(3, dtype=torch.float32)).half()

    doubled = in_double(wnconvert.trace(Casting()))
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert torch.equal(doubled(x), x)


def test_what_is_farther_than_rounding_explains_is_not_kept():
    near = Measured(1e-7, 4e-7, "float32", "given")
    assert require_near(near) is near
    assert require_near(Measured(0.0, 1e-6, "float32", "given"))
    for far in (Measured(1e-7, 1e-4, "float32", "given"), Measured(1e-7, float("nan"), "float32", "given")):
        with pytest.raises(wnconvert.VerificationError, match="the fused model is off by"):
            require_near(far)


def test_inputs_that_do_not_fit_are_said_to():
    with pytest.raises(wnconvert.OptionError, match="the model does not run on the example inputs"):
        measure(nn.Linear(3, 3), nn.Linear(3, 3), (torch.randn(2, 4),))


def test_the_model_is_left_in_its_mode():
    model = nn.Sequential(nn.Dropout(), nn.Linear(3, 3)).train()
    measured = measure(model, model, (torch.randn(2, 3),))
    assert measured.fused == measured.unfused
    assert model.training


def test_a_fused_model_that_does_not_run_or_gives_another_shape_is_not_kept():
    before, x = nn.Linear(3, 3), torch.randn(2, 3)
    with pytest.raises(wnconvert.VerificationError, match="the fused model does not run, so it was not kept"):
        measure(before, nn.Linear(4, 3), (x,))
    with pytest.raises(wnconvert.VerificationError, match=r"the fused model has outputs .*\[2, 1, 3\]"):
        measure(before, nn.Sequential(before, nn.Unflatten(1, (1, 3))), (x,))
