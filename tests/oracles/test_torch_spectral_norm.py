"""torch's own spectral norm as the oracle: forward, gradients, state and trajectory."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn.utils import parametrizations

import wnconvert
from tests.models import WEIGHTS, build
from wnconvert import SpectralNorm
from wnconvert.verification import same_bits

#: a transposed convolution is kept at dim 1, as torch does
KINDS = ["conv", "vocoder"]


def pair(name, iterations=1):
    """Return a model with our spectral norm and torch's state, the same one with torch's own, and the inputs."""
    model, inputs = build(name)
    theirs = copy.deepcopy(model)
    torch.manual_seed(0)
    for fqn in WEIGHTS[name]:
        parametrizations.spectral_norm(theirs.get_submodule(fqn.rpartition(".")[0]), n_power_iterations=iterations)
    ours, _ = wnconvert.apply(model, SpectralNorm(power_iterations=iterations))
    for fqn in WEIGHTS[name]:
        norm = _norm(theirs, fqn)
        ours.get_buffer(f"{fqn}_u").copy_(norm._u)
        ours.get_buffer(f"{fqn}_v").copy_(norm._v)
    return ours, theirs, inputs


def _norm(theirs, fqn):
    return theirs.get_submodule(fqn.rpartition(".")[0]).parametrizations.weight[0]


def _original(theirs, fqn):
    return theirs.get_submodule(fqn.rpartition(".")[0]).parametrizations.weight.original


def assert_same_state(ours, theirs, name):
    for fqn in WEIGHTS[name]:
        torch.testing.assert_close(ours.get_buffer(f"{fqn}_u"), _norm(theirs, fqn)._u)
        torch.testing.assert_close(ours.get_buffer(f"{fqn}_v"), _norm(theirs, fqn)._v)


def state(model, name):
    return {f"{fqn}_{part}": model.get_buffer(f"{fqn}_{part}").clone() for fqn in WEIGHTS[name] for part in "uv"}


def loss(model, inputs):
    return model(*inputs).square().mean()


@pytest.mark.parametrize("name", KINDS)
def test_evaluation_is_torchs(name):
    ours, theirs, inputs = pair(name)
    torch.testing.assert_close(ours.eval()(*inputs), theirs.eval()(*inputs))


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_training_forwards_are_torchs_and_so_is_the_state_after_them(name, iterations):
    ours, theirs, inputs = pair(name, iterations)
    for _ in range(3):
        torch.testing.assert_close(ours.train()(*inputs), theirs.train()(*inputs))
        assert_same_state(ours, theirs, name)
    torch.testing.assert_close(ours.eval()(*inputs), theirs.eval()(*inputs))


@pytest.mark.parametrize("name", KINDS)
def test_the_gradients_are_torchs(name):
    ours, theirs, inputs = pair(name)
    loss(ours.train(), inputs).backward()
    loss(theirs.train(), inputs).backward()
    for fqn in WEIGHTS[name]:
        expected = _original(theirs, fqn).grad
        assert expected.count_nonzero() > 0
        torch.testing.assert_close(ours.get_parameter(f"{fqn}_orig").grad, expected)


@pytest.mark.parametrize("name", KINDS)
def test_twenty_steps_of_sgd_take_torchs_way(name):
    ours, theirs, inputs = pair(name)
    optimizers = [torch.optim.SGD(model.train().parameters(), lr=0.02) for model in (ours, theirs)]
    start = {fqn: _original(theirs, fqn).detach().clone() for fqn in WEIGHTS[name]}
    for _ in range(20):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            loss(model, inputs).backward()
            optimizer.step()
        for fqn in WEIGHTS[name]:
            torch.testing.assert_close(ours.get_parameter(f"{fqn}_orig"), _original(theirs, fqn))
        assert_same_state(ours, theirs, name)
    for fqn, before in start.items():
        assert (_original(theirs, fqn) - before).abs().max() > 1e-4


def _pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kept", [lambda model: model, copy.deepcopy, _pickled], ids=["itself", "copy", "pickle"])
def test_training_moves_the_state_and_evaluation_does_not(kept):
    ours, theirs, inputs = pair("conv")
    ours = kept(ours)
    before = state(ours, "conv")
    ours.eval()(*inputs)
    assert all(same_bits(ours.get_buffer(name), tensor) for name, tensor in before.items())
    ours.train()(*inputs)
    theirs.train()(*inputs)
    assert all(not same_bits(ours.get_buffer(name), before[name]) for name in before)
    assert_same_state(ours, theirs, "conv")


def test_a_fold_has_torchs_weights():
    ours, theirs, inputs = pair("conv")
    ours.train()(*inputs)
    theirs.train()(*inputs)
    folded, _ = wnconvert.fold(ours)
    for fqn in WEIGHTS["conv"]:
        module = theirs.eval().get_submodule(fqn.rpartition(".")[0])
        torch.testing.assert_close(folded.get_parameter(fqn), module.weight)
