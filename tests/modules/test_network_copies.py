"""Copies and state dicts of weights that are composed of what they all have in common."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import DTYPES, bits_equal
from tests.modules.making import INDEX, Nested, Tower, converted, disturbed
from wnconvert.modules.inplace import fold_in_place
from wnconvert.selection import Selection


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(how: object) -> None:
    model = disturbed(converted(Tower()))
    expected = model(INDEX)
    twin = how(model)  # type: ignore[operator]
    assert torch.equal(twin(INDEX), expected)
    with torch.no_grad():
        model.blocks[1][0].weight_network_v.add_(1)
    assert torch.equal(twin(INDEX), expected)
    assert not torch.equal(model(INDEX), expected)
    fold_in_place(twin, Selection())
    assert torch.equal(twin(INDEX), expected)


def test_a_copy_during_a_call_holds_nothing_of_it() -> None:
    class Copying(Nested):
        def forward(self, x: Tensor, depth: int = 0) -> Tensor:
            self.__dict__["copied"] = copy.deepcopy(self)
            return self.fc(x)

    model = converted(Copying())
    model(torch.ones(1, 3))
    with torch.no_grad():
        model.copied.network_g.mul_(2)
        model.copied.fc.weight_network_v.mul_(3)
    torch.testing.assert_close(model.copied.fc.weight.norm(), model.copied.network_g.detach())


def test_a_copy_of_a_layer_keeps_its_weight() -> None:
    model = disturbed(converted(Tower()))
    layer = copy.deepcopy(model.blocks[0])
    expected = layer(torch.ones(4))
    disturbed(model)
    assert torch.equal(layer(torch.ones(4)), expected)


def test_its_own_state_dict_and_a_plain_one_can_be_loaded() -> None:
    model = disturbed(converted(Tower()))
    other = converted(Tower())
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(INDEX), model(INDEX))
    plain = disturbed(Tower())
    other.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(other(INDEX), plain(INDEX))
    torch.testing.assert_close(
        other.network_g.detach(), sum(p.square().sum() for p in plain.parameters() if p.dim() > 1).sqrt().detach()
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_plain_state_dict_of_another_dtype_is_rounded_as_a_whole(dtype: torch.dtype) -> None:
    plain, other = disturbed(Tower()).double(), converted(Tower().to(dtype))
    other.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(other(INDEX), plain.to(dtype)(INDEX))


def test_a_plain_state_dict_can_be_assigned() -> None:
    plain = disturbed(Tower()).double()
    other = converted(Tower())
    other.load_state_dict(plain.state_dict(), strict=True, assign=True)
    assert torch.equal(other(INDEX), plain(INDEX))


def test_below_a_prefix_too() -> None:
    plain, model = disturbed(Tower()), nn.Sequential(converted(Tower()))
    model.load_state_dict(nn.Sequential(plain).state_dict(), strict=True)
    assert torch.equal(model(INDEX), plain(INDEX))


def test_one_layer_is_a_network_of_its_own() -> None:
    plain, x = nn.Linear(4, 3), torch.randn(2, 4)
    layer = converted(copy.deepcopy(plain))
    assert torch.equal(layer(x), plain(x))
    assert list(layer.state_dict()) == ["weight_network_v", "bias", "network_g"]
    fold_in_place(layer, Selection())
    assert bits_equal(layer.weight, plain.weight)
