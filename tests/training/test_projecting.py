"""Directions of unit length after each step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import wnconvert
from wnconvert.errors import NothingToConvertError
from wnconvert.training.composed import composed_weights
from wnconvert.training.projecting import Projection, project_

X = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(1))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh(), nn.ConvTranspose1d(4, 5, 3), nn.Flatten(), nn.Linear(45, 2))


def trained(scheme: object, how: str = "module") -> nn.Module:
    model = wnconvert.apply(plain(), scheme, how=how).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model.eval()


SCHEMES = ["weight_norm", "unit_norm", "centered_weight_norm", "spectral_norm", "sigma_reparam"]


@pytest.mark.parametrize("how", ["module", "graph"])
@pytest.mark.parametrize("exact", [False, True], ids=["unit", "power of two"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_function_stays_and_lengths_become_one(scheme, exact, how):
    model = trained(scheme, how)
    before = model(X)
    projection = Projection(model, exact=exact)
    assert len(projection.weights) == 3
    projection()
    for weight in projection.weights:
        length = weight.scheme.divisor(weight.parts, weight.spec)
        if exact:
            assert ((length >= 1) & (length < 2)).all()
        else:
            torch.testing.assert_close(length, torch.ones_like(length))
    if exact:
        assert torch.equal(model(X), before)
    else:
        torch.testing.assert_close(model(X), before)


def test_magnitude_preserving_weights_are_normalized_as_the_paper_does():
    model = trained("magnitude_preserving")
    mp = model[0].weight_mp.detach().clone()
    project_(model)
    rms = mp.square().mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(model[0].weight_mp.detach(), mp / (rms + 1e-4))


@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_the_models_of_torch_are_projected_too(norm):
    model = plain()
    norm(model[0])
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(3)
    model.eval()
    before = model(X)
    project_(model, exact=True)
    assert torch.equal(model(X), before)


def test_steps_do_not_become_smaller():
    """Without a projection v grows, and with it the effective learning rate falls."""

    def angles(projected: bool) -> list[float]:
        model = wnconvert.apply(plain()).model
        optimizer = torch.optim.SGD([model[0].weight_v], lr=1.0)
        if projected:
            optimizer.register_step_post_hook(Projection(model))
            project_(model)
        lengths = []
        for step in range(20):
            model[0].weight_v.grad = None
            (model[0].weight * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(step))).sum().backward()
            optimizer.step()
            lengths.append(model[0].weight_v.norm(dim=(1, 2)).max().item())
        return lengths

    assert max(angles(True)) == pytest.approx(1.0, abs=1e-5)
    assert angles(False)[-1] > 2


@pytest.mark.parametrize("scheme", ["weight_norm", "spectral_norm", "sigma_reparam"])
def test_a_direction_of_zeros_stays_finite(scheme):
    model = wnconvert.apply(plain(), scheme).model
    with torch.no_grad():
        model[0].get_parameter(f"weight_{'v' if scheme == 'weight_norm' else 'orig'}").zero_()
    project_(model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_what_powers_of_two_would_change_is_left_alone():
    model = trained(wnconvert.WeightNorm(log_g=True))
    with pytest.raises(NothingToConvertError, match="no composed weight whose direction has a length of its own"):
        Projection(model, exact=True)
    before = model(X)
    project_(model)
    torch.testing.assert_close(model(X), before)


@pytest.mark.parametrize("other", [nn.Linear(3, 3), wnconvert.apply(nn.Linear(3, 3), dim=None).model])
def test_a_direction_that_means_something_elsewhere_too_is_left_alone(other):
    model = nn.Sequential(wnconvert.apply(nn.Linear(3, 3)).model, other, wnconvert.apply(nn.Linear(3, 3)).model)
    if "weight_v" in dict(other.named_parameters()):
        other.weight_v = model[0].weight_v
    else:
        other.weight = model[0].weight_v
    with torch.no_grad():
        model[0].weight_v.mul_(3)
    before = model(X[..., :3])
    projection = Projection(model)
    assert [weight.fqn for weight in projection.weights] == ["2.weight"]
    projection()
    torch.testing.assert_close(model(X[..., :3]), before)


@pytest.mark.parametrize("scheme", [None, "weight_standardization", "network_norm"])
def test_a_model_without_such_weights_is_named(scheme):
    model = plain() if scheme is None else wnconvert.apply(plain(), scheme).model
    with pytest.raises(NothingToConvertError, match="'Sequential' has no composed weight"):
        project_(model)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("scheme", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("change", ["cast", "load", "swap", "deepcopy"])
def test_parameters_are_looked_up_each_time(change, scheme, exact):
    model = wnconvert.apply(plain(), scheme).model.eval()
    projection = Projection(model, exact=exact)
    if change == "cast":
        model.to(torch.bfloat16)
    elif change == "swap":
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        model.double()
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    elif change == "load":
        model.load_state_dict({name: tensor * 3 for name, tensor in model.state_dict().items()}, assign=True)
    else:
        model, projection = copy.deepcopy((model, projection))
    with torch.no_grad():
        for weight in projection.weights:
            weight.direction.mul_(5)
    before = [model[index].weight.detach() for index in (0, 2, 4)]
    projection()
    for weight in composed_weights(model):
        length = weight.scheme.divisor(weight.parts, weight.spec)
        assert ((length > 0.99) & (length < 2)).all()
    after = [model[index].weight.detach() for index in (0, 2, 4)]
    if exact:
        assert all(map(torch.equal, before, after))
    else:
        torch.testing.assert_close(after, before)


def test_what_is_folded_later_is_left_alone():
    model = wnconvert.apply(plain()).model
    projection = Projection(model)
    wnconvert.fold(model[0], inplace=True)
    with torch.no_grad():
        model[2].weight_v.mul_(3)
    before = model(X)
    projection()
    assert [weight.fqn for weight in projection.weights] == ["2.weight", "4.weight"]
    torch.testing.assert_close(model(X), before)
    wnconvert.fold(model, inplace=True)
    projection()
    assert projection.weights == []
