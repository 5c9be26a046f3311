"""Layers with composed weights are initialized as plain ones."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import wnconvert
from wnconvert.errors import OptionError
from wnconvert.modules import resetting

LAYERS = {
    "linear": lambda: nn.Linear(4, 3),
    "conv": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose1d(3, 2, 3),
    "embedding": lambda: nn.Embedding(5, 3),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
}


@pytest.mark.parametrize("kept", [lambda layer: layer, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_its_weights_have_the_bits_of_a_plain_layer(make: Any, kept: Any) -> None:
    plain = make()
    layer = kept(wnconvert.apply(copy.deepcopy(plain)).model)
    parameters = dict(layer.named_parameters())
    for each in (plain, layer):
        torch.manual_seed(7)
        each.reset_parameters()
    expected = {name: tensor.detach() for name, tensor in plain.named_parameters()}
    found = {name: getattr(layer, name).detach() for name in expected}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # into the parameters that an optimizer has
    assert all(parameter is parameters[name] for name, parameter in layer.named_parameters())


def test_a_model_without_data_gets_some() -> None:
    with torch.device("meta"):
        model = wnconvert.apply(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "spectral_norm").model
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan"))
    for index in (0, 2):
        model[index].reset_parameters()
        torch.testing.assert_close(torch.linalg.svdvals(model.eval()[index].weight)[0], torch.tensor(1.0))


class Own(nn.Linear):
    """A layer whose initialization does more."""

    def reset_parameters(self) -> None:
        self.count = getattr(self, "count", 0) + 1
        self.weight = nn.Parameter(torch.full((3, 4), float(self.count)))
        self.bias = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.ones(1))


def test_what_else_a_class_does_there_is_done() -> None:
    layer = wnconvert.apply(Own(4, 3), selection=wnconvert.Selection(include=("weight",))).model
    layer.reset_parameters()
    assert type(layer).__name__ == "Own"
    assert (layer.count, layer.weight.unique().tolist()) == (2, [2.0])
    assert sorted(layer.state_dict()) == ["bias", "seen", "weight_g", "weight_v"]
    assert layer(torch.ones(1, 4)).tolist() == [[9.0] * 3]


@pytest.mark.parametrize("scheme", list(wnconvert.SCHEMES))
def test_with_every_scheme(scheme: str) -> None:
    layer = wnconvert.apply(nn.Linear(4, 3), scheme).model.eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(torch.nan)
    torch.manual_seed(7)
    layer.reset_parameters()
    torch.manual_seed(7)
    expected = wnconvert.apply(nn.Linear(4, 3), scheme).model.eval().weight
    if scheme != "network_norm":  # whose magnitude is that of the network, and stays
        torch.testing.assert_close(layer.weight, expected)


def test_of_what_is_folded_it_is_the_plain_one() -> None:
    layer = wnconvert.apply(nn.Linear(4, 3)).model
    wnconvert.fold(layer, inplace=True)
    assert type(layer).reset_parameters is nn.Linear.reset_parameters


def test_what_is_sharded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = wnconvert.apply(nn.Linear(4, 3)).model
    before = copy.deepcopy(layer.state_dict())
    monkeypatch.setattr(resetting, "is_distributed", lambda tensor: True)
    with pytest.raises(OptionError, match="'weight' is sharded, and cannot be split; load a state dict, or initialize"):
        layer.reset_parameters()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
