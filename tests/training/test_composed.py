"""Which weights of a live model are composed, and of which tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wnconvert
from tests.training.models import MAKERS, plain
from wnconvert.errors import KindError
from wnconvert.training.composed import composed_weights


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_parts_are_the_tensors_of_the_model_whoever_made_them(make):
    model = make()
    parameters = {id(parameter) for parameter in model.parameters()}
    first, second = composed_weights(model)
    assert (first.fqn, first.spec.kept, second.fqn, second.spec.kept) == ("0.weight", (0,), "2.weight", (1,))
    assert {id(part) for weight in (first, second) for part in weight.parts.values()} < parameters
    assert first.direction is first.parts["v"]
    composed = first.scheme.compose(first.parts, first.spec)
    torch.testing.assert_close(
        composed, first.direction * first.parts["g"] / first.direction.norm(dim=(1, 2), keepdim=True)
    )


def test_tied_weights_are_there_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert len(composed_weights(wnconvert.apply(model).model)) == 1


def test_a_direction_of_two_weights_is_there_with_each():
    model = wnconvert.apply(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))).model
    model[1].weight_v = model[0].weight_v
    first, second = composed_weights(model)
    assert first.direction is second.direction
    assert first.parts["g"] is not second.parts["g"]
    assert first.alone
    assert second.alone


def test_plain_weights_are_none():
    assert composed_weights(plain()) == []


def test_what_is_no_module_is_named():
    with pytest.raises(KindError, match="a dict is no module"):
        composed_weights({})


def test_a_lazy_weight_is_no_composed_one():
    model = wnconvert.apply(nn.Sequential(nn.Linear(3, 4))).model.append(nn.LazyLinear(2))
    assert [weight.fqn for weight in composed_weights(model)] == ["0.weight"]
