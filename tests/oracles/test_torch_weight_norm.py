"""torch's own weight norm as the oracle: forward, gradients and trajectory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import wnconvert
from tests.models import WEIGHTS, build
from wnconvert.verification import same_bits

KINDS = ["conv", "vocoder"]


def pair(name, dtype=torch.float32):
    """Return a model with our weight norm, the same one with torch's, and the inputs."""
    model, inputs = build(name, dtype)
    theirs = copy.deepcopy(model)
    for fqn in WEIGHTS[name]:
        parametrizations.weight_norm(theirs.get_submodule(fqn.rpartition(".")[0]), "weight", dim=0)
    ours, _ = wnconvert.apply(model, "weight_norm", dim=0)
    return ours, theirs, inputs


def parts(ours, theirs, name):
    """Yield our tensor and torch's of each part."""
    for fqn in WEIGHTS[name]:
        for index, part in enumerate(("g", "v")):
            path = fqn.rpartition(".")[0]
            yield (
                ours.get_parameter(f"{fqn}_{part}"),
                theirs.get_parameter(f"{path}.parametrizations.weight.original{index}"),
            )


def loss(model, inputs):
    return model(*inputs).square().mean()


@pytest.mark.parametrize("name", KINDS)
def test_the_parts_are_torchs(name):
    ours, theirs, _ = pair(name)
    for own, other in parts(ours, theirs, name):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", KINDS)
def test_the_forward_is_torchs(name, dtype):
    ours, theirs, inputs = pair(name, dtype)
    for own, other in parts(ours, theirs, name):
        own.data.copy_(other.data * 1.3 + 0.01)
        other.data.copy_(own.data)
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))


@pytest.mark.parametrize("name", KINDS)
def test_composed_weights_have_torchs_bits(name):
    ours, theirs, _ = pair(name)
    with torch.no_grad():
        for own, other in parts(ours, theirs, name):
            own.copy_(other.mul_(1.3))
    folded, _ = wnconvert.fold(ours)
    for fqn in WEIGHTS[name]:
        module = theirs.get_submodule(fqn.rpartition(".")[0])
        assert same_bits(folded.get_parameter(fqn).detach(), module.weight.detach())


@pytest.mark.parametrize("name", KINDS)
def test_the_gradients_are_torchs(name):
    ours, theirs, inputs = pair(name)
    loss(ours, inputs).backward()
    loss(theirs, inputs).backward()
    for own, other in parts(ours, theirs, name):
        assert other.grad.count_nonzero() > 0
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("name", KINDS)
def test_the_way_that_may_be_differentiated_twice_is_torchs_too(name):
    _, theirs, inputs = pair(name, torch.float64)
    model, _ = build(name, torch.float64)
    ours, _ = wnconvert.apply(model, wnconvert.WeightNorm(written_out=True), dim=0)
    with torch.no_grad():
        assert torch.equal(ours(*inputs), model(*inputs))
        for own, other in parts(ours, theirs, name):
            own.copy_(other.mul_(1.3).add_(0.01))
    loss(ours, inputs).backward()
    loss(theirs, inputs).backward()
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))
    for own, other in parts(ours, theirs, name):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("name", KINDS)
def test_twenty_steps_of_sgd_take_torchs_way(name):
    ours, theirs, inputs = pair(name)
    ours.train()
    theirs.train()
    # a few percent of each weight in all: far enough to be a way, near enough that rounding is not amplified
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5) for model in (ours, theirs)]
    start = [own.detach().clone() for own, _ in parts(ours, theirs, name)]
    for _ in range(20):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            loss(model, inputs).backward()
            optimizer.step()
        for own, other in parts(ours, theirs, name):
            torch.testing.assert_close(own, other)
    # the magnitudes stay in front of a batch norm, which undoes them
    moved = [(own - before).abs().max() for (own, _), before in zip(parts(ours, theirs, name), start, strict=True)]
    assert min(moved[1::2]) > 1e-4


def test_our_state_dict_loads_into_both_of_torchs():
    ours, theirs, inputs = pair("conv")
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    expected = ours(*inputs)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(theirs(*inputs), expected)
    hooked, _ = build("conv")
    for fqn in WEIGHTS["conv"]:
        nn.utils.weight_norm(hooked.get_submodule(fqn.rpartition(".")[0]))
    hooked.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(hooked(*inputs), expected)
