"""Mean-only batch norm as a module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import wnconvert
from wnconvert.errors import OptionError, WnconvertWarning
from wnconvert.mean_only_batch_norm import MeanOnlyBatchNorm

SHAPES = [((6, 3), 1), ((6, 3, 5), 1), ((2, 3, 4, 5), 1), ((2, 3, 2, 3, 2), 1), ((6, 5, 3), -1), ((3, 5), -2)]


def made(dim: int = 1, dtype: torch.dtype = torch.float32) -> MeanOnlyBatchNorm:
    norm = MeanOnlyBatchNorm(3, momentum=0.25, dim=dim, dtype=dtype)
    with torch.no_grad():
        norm.bias.copy_(torch.randn(3))
        norm.running_mean.copy_(torch.randn(3))
    return norm


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_it_is_torchs_batch_norm_without_the_variance(shape, dim):
    """Torch's gives ``(x - mean) * rstd + bias``, which by its own statistics is turned into ``x - mean + bias``."""
    x, norm = torch.randn(shape) * 2 + 1, made(dim)
    before = norm.running_mean.clone()
    oracle = nn.BatchNorm1d(3, momentum=0.25).train()
    oracle.running_mean.copy_(before)
    rows = x.movedim(dim, -1).reshape(-1, 3)
    std = (rows.var(0, unbiased=False) + oracle.eps).sqrt()
    wanted = oracle(rows) * std + norm.bias
    torch.testing.assert_close(norm(x).movedim(dim, -1).reshape(-1, 3), wanted)
    torch.testing.assert_close(norm.running_mean, oracle.running_mean)
    norm.eval()
    torch.testing.assert_close(norm(x).movedim(dim, -1).reshape(-1, 3), rows - oracle.running_mean + norm.bias)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_gradients_are_right(shape, dim, training):
    norm = made(dim, torch.float64).train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"bias": bias, "running_mean": norm.running_mean.clone()}, (x,))

    bias = norm.bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(call, (x, bias))
    assert torch.autograd.gradgradcheck(call, (x, bias))


def test_evaluation_changes_nothing_and_training_the_running_mean_alone():
    norm, x = made(), torch.randn(4, 3, 5)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    assert [*before] == ["bias", "running_mean"]
    norm.eval()(x)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    norm.train()(x)
    torch.testing.assert_close(norm.running_mean, before["running_mean"] * 0.75 + x.mean((0, 2)) * 0.25)
    assert torch.equal(norm.bias, before["bias"])
    assert norm.running_mean.grad_fn is None


@pytest.mark.parametrize(
    "again",
    [
        copy.deepcopy,
        lambda norm: pickle.loads(pickle.dumps(norm)),
        lambda norm: torch.compile(norm, backend="aot_eager"),
    ],
)
def test_it_is_copied_pickled_and_compiled(again):
    one, x = made(), torch.randn(4, 3, 5)
    other = again(copy.deepcopy(one))
    torch.testing.assert_close(other(x), one(x))
    torch.testing.assert_close(other.running_mean, one.running_mean)
    assert repr(one) == "MeanOnlyBatchNorm(3, momentum=0.25, dim=1)"


def test_half_precision_goes_on_in_it():
    norm = made().bfloat16()
    assert norm(torch.randn(4, 3).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan"), "0.1", None])
def test_a_momentum_that_is_none_is_named(momentum):
    with pytest.raises(OptionError, match=r"momentum is .*; it must be a number from 0 to 1"):
        MeanOnlyBatchNorm(3, momentum)


def test_another_number_of_channels_is_named():
    with pytest.raises(OptionError, match=r"input of shape \(4, 5\) has not 3 channels in dim 1"):
        made()(torch.randn(4, 5))
    with pytest.raises(OptionError, match=r"input of shape \(3,\) has not 3 channels in dim 1"):
        made()(torch.randn(3))


@pytest.mark.parametrize("option", [{"num_features": -1}, {"num_features": "3"}, {"num_features": 3, "dim": "1"}])
def test_channels_and_dims_that_are_none_are_named(option):
    with pytest.raises(OptionError, match=r"is .*; it must be a whole number"):
        MeanOnlyBatchNorm(**option)


@pytest.mark.parametrize("training", [True, False])
def test_its_output_has_the_dtype_of_its_input_as_under_autocast(training):
    assert made().train(training)(torch.randn(4, 3).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_channel_is_named(shape):
    norm = made()
    with pytest.warns(
        WnconvertWarning, match=r"training on an input of shape \(1, 3.*\), which has one value a channel"
    ):
        y = norm.train()(torch.randn(shape))
    torch.testing.assert_close(y.flatten(), norm.bias)
    norm.eval()(torch.randn(shape))
    norm.train()(torch.randn(1, 3, 2))


def test_a_batch_of_nothing_leaves_the_running_mean():
    norm = made()
    before = norm.running_mean.clone()
    assert norm(torch.zeros(0, 3)).shape == (0, 3)
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("how", ["module", "graph"])
@pytest.mark.parametrize(
    ("layer", "shape", "dim"),
    [
        (lambda: nn.Conv2d(2, 3, 3, bias=False), (4, 2, 6, 6), 1),
        (lambda: nn.ConvTranspose1d(2, 3, 3), (4, 2, 6), -2),
        (lambda: nn.Linear(5, 3), (4, 6, 5), -1),
    ],
)
def test_it_is_fused_into_the_layer_before_it(layer, shape, dim, how):
    model = wnconvert.apply(nn.Sequential(layer(), made(dim), nn.ReLU())).model.eval()
    x = torch.randn(shape)
    before = model(x)
    model = wnconvert.fold(model).model
    model = wnconvert.trace(model) if how == "graph" else model
    fused, report = wnconvert.fuse(model, example_inputs=(x,))
    assert [(entry.fqn, entry.place) for entry in report.fused] == [("1", "after")]
    assert not any(isinstance(module, MeanOnlyBatchNorm) for module in fused.modules())
    torch.testing.assert_close(fused(x), before)


def test_it_is_not_fused_in_training():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), made()).train()
    with pytest.raises(wnconvert.NothingToConvertError, match="in training mode"):
        wnconvert.fuse(model, example_inputs=(torch.randn(4, 2, 6),))
