"""Parameter groups for an optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import wnconvert
from wnconvert.errors import OptionError
from wnconvert.training.groups import parameter_groups


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(4 * 6, 2))


def names(model: nn.Module, groups: list[dict[str, object]]) -> dict[str, set[str]]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {name_of[id(each)] for each in group["params"]} for group in groups}


def test_each_parameter_is_in_the_group_of_what_it_does():
    model = wnconvert.apply(plain(), selection=wnconvert.Selection(include=("0*",))).model
    groups = parameter_groups(model, weight_decay=0.1, lr_g=0.5)
    assert names(model, groups) == {
        "weights": {"3.weight"},
        "directions": {"0.weight_v"},
        "magnitudes": {"0.weight_g"},
        "others": {"0.bias", "1.weight", "1.bias", "3.bias"},
    }
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    assert [group.get("lr") for group in groups] == [None, None, 0.5, None]


@pytest.mark.parametrize(
    "scheme", ["weight_norm", "spectral_norm", "weight_standardization", "sigma_reparam", "network_norm"]
)
@pytest.mark.parametrize("how", ["module", "graph"])
def test_all_trainable_parameters_are_there_once(scheme, how):
    model = wnconvert.apply(plain(), scheme, how=how).model
    model[3].bias.requires_grad_(False) if how == "module" else None
    groups = parameter_groups(model, weight_decay=0.1)
    there = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(there) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    torch.optim.AdamW(groups, lr=0.1).step()


def test_what_is_added_to_a_weight_is_not_decayed():
    for scheme, part in ((wnconvert.WeightNorm(log_g=True), "s"), (wnconvert.CenteredWeightNorm(), "shift")):
        model = wnconvert.apply(plain(), scheme).model
        assert f"0.weight_{part}" in names(model, parameter_groups(model))["others"]


def test_a_model_of_torch_has_the_same_groups():
    model = plain()
    parametrizations.weight_norm(model[0])
    found = names(model, parameter_groups(model))
    assert found["directions"] == {"0.parametrizations.weight.original1"}
    assert found["magnitudes"] == {"0.parametrizations.weight.original0"}


def test_a_plain_model_has_weights_and_others():
    assert [group["name"] for group in parameter_groups(plain())] == ["weights", "others"]


def test_decay_acts_on_the_composed_weights_as_on_plain_ones():
    """With a gradient of zero, a step of SGD makes each weight smaller by the same factor, converted or not."""
    one, other = plain(), wnconvert.apply(plain()).model
    for model, groups in ((one, one.parameters()), (other, parameter_groups(other, weight_decay=0.5))):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.optim.SGD(groups, lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(other[0].weight, one[0].weight)
    torch.testing.assert_close(other[3].weight, one[3].weight)
    assert not torch.equal(one[0].weight, plain()[0].weight)


@pytest.mark.parametrize(
    "option",
    [{"weight_decay": -0.1}, {"lr": float("inf")}, {"lr_g": float("nan")}, {"lr": "0.1"}, {"weight_decay": None}],
)
def test_bad_numbers_are_named(option):
    with pytest.raises(OptionError, match=f"{next(iter(option))} is .* from 0 up"):
        parameter_groups(plain(), **option)


def test_a_lazy_parameter_is_named():
    with pytest.raises(OptionError, match=r"parameter '0\.weight' has no shape yet; run the model once"):
        parameter_groups(nn.Sequential(nn.LazyLinear(4)))
