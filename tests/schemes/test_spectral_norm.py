"""Spectral norm against torch's parametrization and torch's hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.helpers import DTYPES, fold, sample, split_all, with_gradients
from tests.schemes.matrices import each_shape, matrix
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.sigma_reparam import SigmaReparam
from wnconvert.schemes.spectral_norm import SpectralNorm


def torch_spectral_norm(weight: torch.Tensor, dim: int, steps: int = 1) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(weight.clone())
    torch.manual_seed(0)
    return parametrizations.spectral_norm(module, n_power_iterations=steps, dim=dim)


def parts_of(module: nn.Module) -> dict[str, torch.Tensor]:
    parametrization = module.parametrizations.weight
    u, v = parametrization[0]._u.clone(), parametrization[0]._v.clone()
    return {"orig": parametrization.original.detach(), "u": u, "v": v}


@each_shape
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_values_and_gradients_are_those_of_torch(shape, dim, dtype):
    module = torch_spectral_norm(sample(*shape, dtype=dtype), dim).eval()
    (parts,), (orig,) = with_gradients([parts_of(module)], ("orig",))
    composed = SpectralNorm().compose(parts, WeightSpec(shape, (dim,), dtype))
    torch.testing.assert_close(composed, module.weight)
    cotangent = sample(*shape, dtype=dtype, seed=1)
    composed.backward(cotangent)
    module.weight.backward(cotangent)
    torch.testing.assert_close(orig.grad, module.parametrizations.weight.original.grad)


@each_shape
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_the_state_takes_the_way_that_it_takes_in_torch(shape, dim, steps, dtype):
    module = torch_spectral_norm(sample(*shape, dtype=dtype), dim, steps).train()
    scheme, spec, parts = SpectralNorm(power_iterations=steps), WeightSpec(shape, (dim,), dtype), parts_of(module)
    for step in range(4):
        # a large change of the weight, so that the state has a way to go
        moved = sample(*shape, dtype=dtype, seed=10 + step)
        with torch.no_grad():
            module.parametrizations.weight.original.copy_(moved)
        theirs = module.weight.detach()
        parts = {"orig": moved, "u": parts["u"], "v": parts["v"]} | scheme.update({**parts, "orig": moved}, spec)
        assert not torch.allclose(parts["u"], parts_of(torch_spectral_norm(moved, dim))["u"])
        torch.testing.assert_close(parts, parts_of(module))
        torch.testing.assert_close(scheme.compose(parts, spec), theirs)


@pytest.mark.parametrize("dim", [0, 1])
def test_the_parts_of_torch_hooks_give_their_weight(dim):
    module = torch.nn.utils.spectral_norm(nn.ConvTranspose2d(4, 4, 3).double(), dim=dim)
    for _ in range(3):
        module(torch.zeros(1, 4, 5, 5, dtype=torch.float64))
    module.eval()(torch.zeros(1, 4, 5, 5, dtype=torch.float64))
    parts = {"orig": module.weight_orig.detach(), "u": module.weight_u, "v": module.weight_v}
    composed = SpectralNorm().compose(parts, WeightSpec.of(parts["orig"], (dim,)))
    torch.testing.assert_close(composed, module.weight.detach())


@each_shape
def test_the_largest_singular_value_becomes_one(shape, dim):
    composed = fold(SpectralNorm(), sample(*shape), (dim,))
    torch.testing.assert_close(torch.linalg.matrix_norm(matrix(composed, dim), 2).item(), 1.0)


def test_split_is_not_misled_by_a_large_row_that_is_no_singular_vector():
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 2.0], [0.0, 2.0, 2.0]])
    assert fold(SigmaReparam(), weight).equal(weight)
    torch.testing.assert_close(SigmaReparam().split(weight, WeightSpec.of(weight))["gamma"].item(), 4.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_of_zeros_stays_zero_and_its_state_recovers(dtype):
    zeros = torch.zeros(4, 6, dtype=dtype)
    (parts,), (spec,) = split_all(SpectralNorm(), [zeros])
    assert not SpectralNorm().compose(parts, spec).any()
    for _ in range(2):
        parts |= SpectralNorm().update(parts, spec)
    assert parts["u"].isfinite().all()
    assert parts["u"].any()
    parts["orig"] = sample(4, 6, dtype=dtype)
    for _ in range(100):
        parts |= SpectralNorm().update(parts, spec)
    composed = SpectralNorm().compose(parts, spec)
    # the largest singular value is found to a few roundings of the weight's dtype
    largest = torch.linalg.matrix_norm(composed.double(), 2).item()
    assert largest == pytest.approx(1.0, abs=max(8 * torch.finfo(dtype).eps, 1e-6))
