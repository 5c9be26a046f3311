"""Each helper is seen to fail on what it must reject."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.helpers import (
    DTYPES,
    Float32List,
    assert_close_in,
    assert_same_bits,
    bits,
    bits_equal,
    compose_all,
    evaluate_formula,
    fold,
    nodes_of,
    perturbed,
    sample,
    split_all,
    traced,
    trained,
    variant_id,
    variants,
    with_gradients,
    with_zeros,
)
from wnconvert.scheme import SCHEMES, WeightSpec
from wnconvert.schemes.network_norm import NetworkNorm
from wnconvert.schemes.spectral_norm import SpectralNorm
from wnconvert.schemes.weight_norm import WeightNorm

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@each_dtype
def test_bits_differ_for_the_signs_of_zero_and_for_the_next_number(dtype):
    x = torch.tensor([0.0, 1.0, float("nan")], dtype=dtype)
    assert torch.equal(bits(x), bits(x.clone()))
    assert bits_equal(x, x.clone())
    assert not bits_equal(x, torch.tensor([-0.0, 1.0, float("nan")], dtype=dtype))
    assert not bits_equal(x, torch.tensor([0.0, 1.0 + torch.finfo(dtype).eps, float("nan")], dtype=dtype))


def test_bits_equal_rejects_another_dtype_or_shape():
    x = torch.zeros(2, 3)
    assert not bits_equal(x, x.double())
    assert not bits_equal(x.half(), x.bfloat16())
    assert not bits_equal(x, torch.zeros(3, 2))
    assert not bits_equal(x, torch.zeros(1, 2, 3))
    assert bits_equal(x, torch.zeros(3, 2).t())


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0000002])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1.0]), torch.tensor([1.0]).double()),
        (torch.tensor([1.0]), torch.tensor(1.0)),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")])),
        (torch.tensor([float("inf")]), torch.tensor([float("inf")])),
    ],
)
def test_assert_same_bits_rejects(actual, expected):
    with pytest.raises(AssertionError):
        assert_same_bits(actual, expected)


def test_assert_same_bits_counts_what_differs():
    with pytest.raises(AssertionError, match="2 of 3 elements differ"):
        assert_same_bits(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 3.5]))


def test_assert_close_in_allows_that_many_roundings_and_no_more():
    expected = torch.tensor([1.0, 4.0])
    off = torch.tensor([1.0, 4.0 + 4 * 3 * torch.finfo(torch.float16).eps])
    assert_close_in(torch.float16, off, expected, roundings=3)
    for actual, dtype, roundings in [
        (off, torch.float16, 2),
        (off, torch.float32, 3),
        (expected[:1], torch.float32, 3),
        (torch.tensor([1.0, float("nan")]), torch.float32, 3),
    ]:
        with pytest.raises(AssertionError):
            assert_close_in(dtype, actual, expected, roundings)


def test_sample_is_generic_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    weight = sample(4, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weight, sample(4, 6))
    assert not torch.equal(weight, sample(4, 6, seed=1))
    assert (weight.mean(1).abs() > 1e-3).all()
    assert ((weight.norm(dim=1) - 1).abs() > 1e-3).all()


def test_with_zeros_clears_one_channel_with_both_signs():
    weight = sample(4, 6)
    for kept, channel in [((0,), 0), ((1,), (slice(None), 0)), ((0, 1), (0, 0)), ((), slice(None))]:
        result = with_zeros(weight, kept)
        assert not result[channel].any()
        assert torch.equal(result[channel].signbit(), weight[channel].signbit())
        assert int((result == 0).sum()) == weight[channel].numel()
    assert with_zeros(weight, ()).signbit().unique().numel() == 2
    assert weight.all()


def test_perturbed_makes_negative_and_zero_magnitudes_and_leaves_the_state():
    scheme = WeightNorm()
    parts, _ = split_all(scheme, [sample(4, 6)])
    g = perturbed(parts, scheme)[0]["g"].flatten()
    assert g[0] == 0
    assert (g < 0).any()
    assert not torch.equal(perturbed(parts, scheme)[0]["v"], parts[0]["v"])
    parts, _ = split_all(SpectralNorm(), [sample(4, 6)])
    assert perturbed(parts, SpectralNorm())[0]["u"] is parts[0]["u"]
    parts, _ = split_all(NetworkNorm(), [sample(4, 6), sample(3)])
    first, second = perturbed(parts, NetworkNorm())
    assert first["network_g"] is second["network_g"]
    assert first["network_g"] != parts[0]["network_g"]


def test_float32_list_widens_what_is_on_it_and_nothing_else():
    x = torch.ones(3, dtype=torch.float16)
    with Float32List():
        wide = [x.sum(), x.log(), torch.linalg.vector_norm(x), 1.0 / x]
        same = [x + x, x.mean(), x.std(), x.abs(), x.double().sum()]
    assert [y.dtype for y in wide] == [torch.float32] * 4
    assert [y.dtype for y in same] == [torch.float16] * 4 + [torch.float64]


def test_variants_are_all_part_sets_of_all_schemes():
    schemes = variants()
    assert {scheme.name for scheme in schemes} == set(SCHEMES)
    assert len(schemes) == sum(len(SCHEMES.get(name).variants) for name in SCHEMES)
    assert len(set(map(variant_id, schemes))) == len(schemes)


def test_trained_leaves_out_state_and_adds_what_is_shared():
    assert trained(SpectralNorm()) == ("orig",)
    assert trained(NetworkNorm()) == ("network_v", "network_g")


def test_networks_share_one_tensor():
    parts, specs = split_all(NetworkNorm(), [sample(2, 3), sample(4)])
    assert parts[0]["network_g"] is parts[1]["network_g"]
    assert [spec.shape for spec in specs] == [(2, 3), (4,)]
    _, leaves = with_gradients(parts, ("network_v", "network_g"))
    assert len(leaves) == 3
    graph_module = traced(lambda proxies: compose_all(NetworkNorm(), proxies, specs), parts)
    assert len([node for node in graph_module.graph.nodes if node.op == "get_attr"]) == 3


def test_with_gradients_makes_leaves_of_the_named_parts_only():
    parts, _ = split_all(SpectralNorm(), [sample(2, 3)])
    given, leaves = with_gradients(parts, ("orig",))
    assert [leaf.shape for leaf in leaves] == [(2, 3)]
    assert given[0]["orig"] is leaves[0]
    assert leaves[0].requires_grad
    assert not given[0]["u"].requires_grad
    assert not parts[0]["orig"].requires_grad


def test_traced_refuses_a_decision_on_values():
    with pytest.raises(torch.fx.proxy.TraceError):
        traced(lambda parts: [parts[0]["g"] if parts[0]["g"].sum() > 0 else parts[0]["v"]], [{"g": sample(1)}])


def test_traced_computes_when_run_and_nodes_of_lists_what_it_does():
    weight = nn.Parameter(sample(2))
    graph_module = traced(lambda parts: [torch.neg(parts[0]["x"]) + 1], [{"x": weight.detach()}])
    assert torch.equal(graph_module()[0], 1 - weight)
    assert [node.op for node in nodes_of(graph_module)] == ["call_function", "call_function"]


@dataclass(frozen=True)
class _Inexact(WeightNorm):
    """The order of operations that loses bits."""

    def compose(self, parts, spec):
        return parts["g"] * parts["v"] / self._norm(parts["v"], spec)


@dataclass(frozen=True)
class _Misprinted(WeightNorm):
    formula = "w = g * v / vector_norm(v, p, dims) ** 2"


@each_dtype
def test_fold_and_assert_same_bits_catch_an_inexact_scheme(dtype):
    weight = sample(64, 32, dtype=dtype)
    assert_same_bits(fold(WeightNorm(), weight), weight)
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same_bits(fold(_Inexact(), weight), weight)


def test_evaluate_formula_catches_a_misprint():
    weight = sample(4, 6)
    spec = WeightSpec.of(weight)
    parts = WeightNorm().split(weight, spec)
    torch.testing.assert_close(evaluate_formula(WeightNorm(), parts, spec, {}), weight)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(evaluate_formula(_Misprinted(), parts, spec, {}), weight)


def test_evaluate_formula_reduces_the_reduced_dims_only():
    weight = sample(4, 6)
    spec = WeightSpec.of(weight, (1,))
    parts = WeightNorm().split(weight, spec)
    assert not torch.allclose(evaluate_formula(WeightNorm(), parts, WeightSpec.of(weight), {}), weight)
    torch.testing.assert_close(evaluate_formula(WeightNorm(), parts, spec, {}), weight)
