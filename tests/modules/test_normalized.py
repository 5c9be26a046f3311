"""How composed weights are read, assigned and loaded."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm as hook_weight_norm

import wnconvert
from tests.modules.making import converted_in_place


@pytest.mark.parametrize("move", [nn.Module.double, copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_moving_and_copying_a_recurrent_module_updates_no_state(move: object) -> None:
    layer = converted_in_place(nn.LSTM(3, 4), "spectral_norm").train()
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    moved = move(layer)  # type: ignore[operator]
    assert moved.training
    assert all(torch.equal(tensor.float(), before[key]) for key, tensor in moved.state_dict().items())
    assert all(torch.equal(tensor.float(), before[key]) for key, tensor in layer.state_dict().items())


@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_recurrent_forward_composes_each_weight_once(make: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch asks for the dtype of the first weight besides, for which none is composed."""
    layer, twin = converted_in_place(make(3, 4), "spectral_norm").train(), make(3, 4)
    count, update = [], wnconvert.SpectralNorm.update
    monkeypatch.setattr(wnconvert.SpectralNorm, "update", lambda *args: count.append(None) or update(*args))
    layer(torch.ones(2, 3))
    assert len(count) == 2
    for each in (layer, twin):
        with pytest.raises(ValueError, match=r"RNN input dtype \(torch.float64\) does not match weight dtype"):
            each(torch.ones(2, 3).double())


def test_a_training_forward_after_an_evaluation_does_not_break_its_backward() -> None:
    layer, x = converted_in_place(nn.Linear(3, 3), "spectral_norm").eval(), torch.ones(1, 3)
    result = layer(x)
    layer.train()(x)
    result.sum().backward()


def test_assigning_a_weight_splits_it() -> None:
    layer = converted_in_place(nn.Linear(3, 2))
    new = torch.arange(6.0).reshape(2, 3)
    layer.weight = new
    assert torch.equal(layer.weight, new)
    with pytest.raises(wnconvert.OptionError, match="it must be"):
        layer.weight = torch.ones(3)


def test_training_updates_the_state_as_torch_does() -> None:
    torch.manual_seed(0)
    reference = parametrizations.spectral_norm(nn.Linear(4, 3))
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(reference.parametrizations.weight.original)
        layer.bias.copy_(reference.bias)
    converted_in_place(layer, "spectral_norm")
    with torch.no_grad():
        layer.weight_u.copy_(reference.parametrizations.weight[0]._u)
        layer.weight_v.copy_(reference.parametrizations.weight[0]._v)
    x = torch.randn(5, 4)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (reference, layer)]
    for _ in range(20):
        for module, optimizer in zip((reference, layer), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(layer.weight_orig, reference.parametrizations.weight.original)
    torch.testing.assert_close(layer.weight_u, reference.parametrizations.weight[0]._u)


def test_evaluation_leaves_the_state_alone() -> None:
    layer = converted_in_place(nn.Linear(4, 3), "spectral_norm").eval()
    before = layer.weight_u.clone()
    layer(torch.ones(1, 4))
    assert torch.equal(layer.weight_u, before)


def test_two_forwards_before_a_backward() -> None:
    layer = converted_in_place(nn.Linear(4, 3), "spectral_norm").train()
    (layer(torch.ones(1, 4)) + layer(torch.zeros(1, 4))).sum().backward()
    assert layer.weight_orig.grad is not None


def test_compile_sees_through_composed_weights() -> None:
    layer = converted_in_place(nn.Linear(4, 3))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.ones(1, 4)), layer(torch.ones(1, 4)))


@pytest.mark.parametrize("trains", [True, False])
def test_kernels_are_chosen_as_for_the_plain_weight(trains: bool) -> None:
    """Torch's matmul looks at requires_grad even under no_grad, where the composed weight would have lost it."""
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=32, batch_first=True)
    model.eval().requires_grad_(trains)
    x, y = torch.randn(2, 5, 16), torch.randn(2, 4, 16)
    applied = wnconvert.apply(model).model
    with torch.no_grad():
        assert torch.equal(applied(x, y), model(x, y))
    with torch.inference_mode():
        assert torch.equal(applied(x, y), model(x, y))


@pytest.mark.parametrize("api", [hook_weight_norm, parametrizations.weight_norm, None])
def test_a_state_dict_in_any_layout_can_be_loaded(api: object) -> None:
    torch.manual_seed(0)
    other, x = nn.Linear(4, 3), torch.randn(2, 4)
    if api is not None:
        api(other)  # type: ignore[operator]
    layer = converted_in_place(nn.Linear(4, 3))
    layer.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(layer(x), other(x))


def test_a_spectral_state_dict_in_torchs_layout_can_be_loaded() -> None:
    torch.manual_seed(0)
    other, x = parametrizations.spectral_norm(nn.Linear(4, 3)).eval(), torch.randn(2, 4)
    layer = converted_in_place(nn.Linear(4, 3), "spectral_norm").eval()
    layer.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close(layer(x), other(x))


def test_a_state_dict_that_does_not_fit_is_refused() -> None:
    layer = converted_in_place(nn.Linear(4, 3))
    with pytest.raises(RuntimeError, match="weight"):
        layer.load_state_dict(nn.Linear(5, 3).state_dict(), strict=True)
