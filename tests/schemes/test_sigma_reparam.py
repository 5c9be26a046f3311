"""Sigma reparametrization: gamma is the largest singular value. Its power iteration is tested with spectral norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wnconvert
from tests.helpers import DTYPES, assert_same_bits, fold, sample, split_all
from wnconvert.modules.inplace import apply_in_place
from wnconvert.passes.apply import ApplyPass
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.sigma_reparam import SigmaReparam
from wnconvert.tracing.tracing import trace


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 2), ()])
def test_gamma_is_the_largest_singular_value_of_the_weight(kept):
    scheme = SigmaReparam()
    (parts,), (spec,) = split_all(scheme, [sample(4, 3, 5)], kept)
    parts["gamma"] = torch.tensor(2.5, dtype=torch.float64)
    composed = scheme.compose(parts, spec).movedim(kept, tuple(range(len(kept)))).reshape(-1, spec.fan_in)
    torch.testing.assert_close(torch.linalg.matrix_norm(composed, 2).item(), 2.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_of_zeros_gets_a_direction(dtype):
    weight = torch.zeros(4, 6, dtype=dtype)
    weight[1, 2] = -0.0
    parts = SigmaReparam().split(weight, WeightSpec.of(weight))
    assert parts["gamma"] == 0
    assert parts["orig"].abs().eq(1).all()
    assert_same_bits(fold(SigmaReparam(), weight), weight)


def test_a_norm_that_overflows_or_underflows_on_the_way_is_scaled():
    for size in (1e30, 1e-30):
        weight = sample(4, 6, dtype=torch.float32) * size
        assert torch.linalg.vector_norm(weight) in (0.0, float("inf"))
        assert_same_bits(fold(SigmaReparam(), weight), weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [(0,), (1,), (0, 2), ()])
def test_updates_leave_an_untrained_weight_alone(kept, dtype):
    scheme = SigmaReparam(power_iterations=3)
    for weight in (sample(4, 3, 5, dtype=dtype), torch.zeros(4, 3, 5, dtype=dtype)):
        (parts,), (spec,) = split_all(scheme, [weight], kept)
        for _ in range(5):
            parts |= scheme.update(parts, spec)
            assert_same_bits(scheme.compose(parts, spec), weight)


@pytest.mark.parametrize("part", ["gamma", "orig"])
def test_updates_follow_once_anything_was_trained(part):
    scheme = SigmaReparam()
    (parts,), (spec,) = split_all(scheme, [sample(4, 6)])
    parts[part] = parts[part] + sample(*parts[part].shape, seed=1)
    u, v = scheme.update(parts, spec).values()
    torch.testing.assert_close(u, torch.nn.functional.normalize(parts["orig"] @ parts["v"], dim=0))
    torch.testing.assert_close(v, torch.nn.functional.normalize(parts["orig"].t() @ u, dim=0))


def converted(model: nn.Module, way: str) -> nn.Module:
    if way == "graph":
        return ApplyPass(SigmaReparam()).call(trace(copy.deepcopy(model))).graph_module
    model = copy.deepcopy(model)
    apply_in_place(model, SigmaReparam(), "output", wnconvert.Selection())
    return model


@pytest.mark.parametrize("way", ["graph", "in place"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_forwards_are_exact(way, dtype):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv1d(16, 24, 3), nn.Tanh(), nn.ConvTranspose1d(24, 8, 3), nn.Linear(12, 64)).to(dtype)
    ours, x = converted(plain, way).train(), torch.randn(2, 16, 12).to(dtype)
    state = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    assert len(state) == 6
    for _ in range(4):
        assert torch.equal(ours(x), plain(x))
        ours(x).sum().backward()
    assert all(torch.equal(buffer, state[name]) for name, buffer in ours.named_buffers())


@pytest.mark.parametrize("way", ["graph", "in place"])
def test_sigma_follows_the_largest_singular_value_in_training(way):
    torch.manual_seed(0)
    model = converted(nn.Sequential(nn.Linear(24, 16)).double(), way).train()
    gamma, orig = (model.get_parameter(f"0.weight_{part}") for part in ("gamma", "orig"))
    u, v = (model.get_buffer(f"0.weight_{part}") for part in "uv")
    x, y = torch.randn(64, 24).double(), torch.randn(64, 16).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    start, expected = gamma.item(), (u.clone(), v.clone())
    for step in range(50):
        w = orig.detach().clone()
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        if step > 0:  # in the first forward nothing was trained yet
            left = nn.functional.normalize(w @ expected[1], dim=0)
            expected = left, nn.functional.normalize(w.t() @ left, dim=0)
        torch.testing.assert_close((u, v), expected)
        # one iteration for each step lags a little behind
        assert (u @ w @ v).item() == pytest.approx(torch.linalg.matrix_norm(w, 2).item(), rel=2e-3)
    assert abs(gamma.item() - start) > 0.05
    for _ in range(200):
        model(x)
    torch.testing.assert_close(u @ orig.detach() @ v, torch.linalg.matrix_norm(orig.detach(), 2))
