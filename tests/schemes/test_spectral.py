"""What the schemes by the largest singular value have in common."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import DTYPES, nodes_of, sample, split_all, traced
from tests.schemes.matrices import each_shape, matrix
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes._spectral import largest_singular_value
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


@pytest.mark.parametrize("shape", [(30000, 256), (30000, 128)])
def test_singular_values_that_are_nearly_one_are_told_apart(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    parts = SpectralNorm().split(weight, WeightSpec.of(weight, (0,)))
    torch.testing.assert_close(parts["u"] @ weight @ parts["v"], torch.linalg.matrix_norm(weight, 2))


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("factor", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("shape", [(3, 5), (70, 90), (2000, 65), (65, 2000)])
def test_the_largest_singular_value_has_four_digits(shape, factor, dtype):
    w = sample(*shape, dtype=dtype)
    scaled = largest_singular_value(w * factor) / factor
    # it is an estimate from below, of which four digits are promised
    assert scaled == pytest.approx(float(torch.linalg.matrix_norm(w, 2)), rel=1e-4)


def test_matrices_of_nothing_have_no_size():
    assert largest_singular_value(torch.zeros(100, 80)) == 0.0
    assert largest_singular_value(torch.zeros(0, 80)) == 0.0


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


@pytest.mark.parametrize(
    "weight",
    [
        torch.eye(5),
        torch.ones(3, 7),
        torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
        torch.diag(torch.tensor([3.0, 2.0, 0.0])),
        torch.eye(4, 6).double() * 1e300,
        torch.full((3, 3), 1e-45),
        torch.nn.functional.pad(torch.full((1, 2), 1.0), (0, 3, 2, 0)),
    ],
    ids=["all alike", "rank one", "a zero row", "a zero value", "huge", "denormal", "one row"],
)
def test_split_finds_sigma_of_matrices_with_structure(weight):
    parts = SpectralNorm().split(weight, WeightSpec.of(weight))
    found = parts["u"].double() @ (weight.double() @ parts["v"].double())
    torch.testing.assert_close(found, torch.linalg.matrix_norm(weight.double(), 2), rtol=1e-6, atol=0)


def test_split_finds_a_first_vector_to_which_its_start_is_orthogonal():
    start = torch.arange(3).cos() + 1
    across = torch.tensor([start[1], -start[0], 0.0])
    weight = torch.outer(across, torch.arange(1.0, 5.0)).double()
    sigma = SigmaReparam().split(weight, WeightSpec.of(weight))["gamma"]
    torch.testing.assert_close(sigma, torch.linalg.matrix_norm(weight, 2))


def test_split_separates_singular_values_that_are_close():
    # after 100 power iterations sigma was wrong by 3e-4
    weight = torch.randn(512, 512)
    sigma = SigmaReparam().split(weight, WeightSpec.of(weight))["gamma"]
    torch.testing.assert_close(sigma, torch.linalg.matrix_norm(weight, 2))


@pytest.mark.parametrize(("shape", "more"), [((4, 6), 0), ((4, 3, 5), 2)])
def test_a_graph_has_no_nodes_for_what_is_there_already(shape, more):
    scheme = SpectralNorm()
    parts, (spec,) = split_all(scheme, [sample(*shape)])
    graph = traced(lambda own: (scheme.update(own[0], spec), scheme.compose(own[0], spec)), parts)
    calls = [node for node in nodes_of(graph) if node.op.startswith("call_")]
    # a matrix is its own matrix, and the vectors take no gradient anyway
    assert len(calls) == 23 + more
    assert sum(node.target == "detach" for node in calls) == 1
    assert sum(node.target is torch.reshape for node in calls) == more
