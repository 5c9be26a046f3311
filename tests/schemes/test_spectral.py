"""What the schemes by the largest singular value have in common."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import DTYPES, sample, split_all
from tests.schemes.matrices import each_shape, matrix
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.sigma_reparam import SigmaReparam
from wnconvert.schemes.spectral_norm import SpectralNorm


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
