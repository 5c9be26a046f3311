"""Spectral norm against torch's parametrization and torch's hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.helpers import DTYPES, fold, sample, split_all, with_gradients
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.sigma_reparam import SigmaReparam
from wnconvert.schemes.spectral_norm import SpectralNorm

SHAPES = [((4, 6), 0), ((6, 4), 1), ((5, 3, 2), 0), ((5, 3, 2), 2), ((4, 3, 2, 2), 1), ((3, 3, 3, 3), 1)]
each_shape = pytest.mark.parametrize(("shape", "dim"), SHAPES)


def torch_spectral_norm(weight: torch.Tensor, dim: int, steps: int = 1) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(weight.clone())
    torch.manual_seed(0)
    return parametrizations.spectral_norm(module, n_power_iterations=steps, dim=dim)


def parts_of(module: nn.Module) -> dict[str, torch.Tensor]:
    parametrization = module.parametrizations.weight
    u, v = parametrization[0]._u.clone(), parametrization[0]._v.clone()
    return {"orig": parametrization.original.detach(), "u": u, "v": v}


def matrix(weight: torch.Tensor, dim: int) -> torch.Tensor:
    return weight.movedim(dim, 0).flatten(1)


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
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("scheme", [SpectralNorm(), SigmaReparam()], ids=lambda scheme: scheme.name)
def test_split_finds_the_first_singular_vectors(scheme, shape, dim, dtype):
    weight = sample(*shape, dtype=dtype)
    parts = scheme.split(weight, WeightSpec.of(weight, (dim,)))
    left, values, right = torch.linalg.svd(matrix(weight, dim), full_matrices=False)
    torch.testing.assert_close(parts["u"] @ matrix(weight, dim) @ parts["v"], values[0])
    sign = parts["u"] @ left[:, 0]
    # vectors converge with the root of what sigma does
    torch.testing.assert_close(parts["u"], sign * left[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(parts["v"], sign * right[0], rtol=1e-3, atol=1e-3)


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


def test_no_power_iterations_freeze_the_state():
    frozen = SpectralNorm(power_iterations=0)
    (parts,), (spec,) = split_all(frozen, [sample(4, 6)])
    assert not frozen.dynamic
    assert frozen.update(parts, spec) == {}
    assert SpectralNorm().dynamic


@pytest.mark.parametrize("options", [{"power_iterations": -1}, {"power_iterations": 1.5}, {"eps": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        SpectralNorm(**options)


# which dim was it? (u and v are vectors, so their lengths are all there is in the shapes)


@pytest.mark.parametrize("scheme", [SpectralNorm(), SigmaReparam()], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths_tell_the_kept_dims_and_where_they_do_not_values_do(scheme, dtype):
    for shape, kept in [((4, 6), (1,)), ((4, 6), ()), ((4, 4), (1,)), ((4, 4), (0,)), ((4, 4, 3, 3), (1,))]:
        weight = sample(*shape, dtype=dtype)
        parts = scheme.split(weight, WeightSpec.of(weight, kept))
        assert scheme.infer_kept(parts, default=(0,)) == kept
        assert scheme.infer_kept(parts, default=(1,)) == kept


def test_the_default_stands_where_values_tell_nothing():
    weight = sample(4, 4)
    never_run = {"orig": weight, "u": torch.eye(4).double()[0], "v": torch.eye(4).double()[1]}
    meta = {part: tensor.to("meta") for part, tensor in SpectralNorm().split(weight, WeightSpec.of(weight)).items()}
    foreign = {"orig": weight, "u": weight.new_ones(5), "v": weight.new_ones(7)}
    for default in ((0,), (1,)):
        for parts in (never_run, meta, foreign):
            assert SpectralNorm().infer_kept(parts, default) == default
