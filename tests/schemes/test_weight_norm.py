"""Weight norm against torch's own, both of its interfaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError
from torch.nn.utils import parametrizations

from tests.helpers import (
    DTYPES,
    assert_same_bits,
    bits_equal,
    compose_all,
    fold,
    sample,
    split_all,
    with_gradients,
    with_zeros,
)
from wnconvert.errors import OptionError
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.weight_norm import WeightNorm

SHAPES = [(8, 6), (8, 6, 3), (8, 6, 3, 5), (4, 3, 2, 3, 2)]


def torch_weight_norm(weight: torch.Tensor, dim: int | None) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(weight.clone())
    return parametrizations.weight_norm(module, dim=dim)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("shape", "dim"), [(shape, dim) for shape in SHAPES for dim in (*range(len(shape)), None)])
def test_same_bits_as_torch(shape, dim, dtype):
    module = torch_weight_norm(sample(*shape, dtype=dtype), dim)
    theirs = module.parametrizations.weight
    # as after training: g is not the norm of v
    with torch.no_grad():
        theirs.original0.mul_(sample(*theirs.original0.shape, dtype=dtype, seed=1) - 0.2)
    kept = () if dim is None else (dim,)
    parts, leaves = with_gradients([{"g": theirs.original0, "v": theirs.original1}], ("g", "v"))
    composed = compose_all(WeightNorm(), parts, [WeightSpec(shape, kept, dtype)])[0]
    assert_same_bits(composed, module.weight)
    cotangent = sample(*shape, dtype=dtype, seed=2)
    module.weight.backward(cotangent)
    composed.backward(cotangent)
    for leaf, their in zip(leaves, (theirs.original0, theirs.original1), strict=True):
        assert_same_bits(leaf.grad, their.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_parts_load_into_torch_hooks(dim, dtype):
    weight = sample(8, 6, 3, dtype=dtype)
    with pytest.warns(FutureWarning, match="deprecated"):
        module = torch.nn.utils.weight_norm(nn.Conv1d(6, 8, 3, dtype=dtype), dim=dim)
    parts, _ = split_all(WeightNorm(), [weight], () if dim is None else (dim,))
    module.load_state_dict({"bias": module.bias.detach(), "weight_g": parts[0]["g"], "weight_v": parts[0]["v"]})
    module(torch.zeros(1, 6, 3, dtype=dtype))
    # torch's own function rounds in half precision, ours does not
    torch.testing.assert_close(module.weight.detach(), weight)


def test_torch_gives_nan_for_a_channel_of_zeros_and_we_do_not():
    weight = sample(4, 6)
    weight[1] = 0
    assert torch_weight_norm(weight, 0).weight[1].isnan().all()  # pytorch/pytorch#19126
    assert_same_bits(fold(WeightNorm(), weight), weight)
    assert WeightNorm().split(weight, WeightSpec.of(weight))["g"][1] == 0


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("log_g", [False, True])
def test_the_norm_of_the_weight_is_g(p, log_g):
    scheme = WeightNorm(p=p, log_g=log_g)
    parts, specs = split_all(scheme, [sample(4, 6)])
    name = "s" if log_g else "g"
    parts[0][name] = sample(4, 1, seed=3).abs()
    g = parts[0]["s"].exp() if log_g else parts[0]["g"]
    composed = compose_all(scheme, parts, specs)[0]
    torch.testing.assert_close(torch.linalg.vector_norm(composed, p, (1,), keepdim=True), g)


@pytest.mark.parametrize("p", [1.0, float("inf")])
@pytest.mark.parametrize("log_g", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_norms_are_exact_too(p, log_g, dtype):
    weight = sample(16, 6, 3, dtype=dtype)
    for kept in ((0,), (1,), (0, 2), ()):
        assert_same_bits(fold(WeightNorm(p=p, log_g=log_g), weight, kept), weight)


def test_a_norm_that_overflows_on_the_way_is_scaled():
    weight = sample(4, 6, dtype=torch.float32)
    weight[0] *= 1e30
    weight[1] *= 1e-30
    assert not torch.linalg.vector_norm(weight[0]).isfinite()
    assert_same_bits(fold(WeightNorm(), weight), weight)


OUT = WeightNorm(written_out=True)


def test_torchs_kernel_has_wrong_second_derivatives_by_v_and_the_formula_right_ones():
    parts, (spec,) = split_all(WeightNorm(), [sample(3, 4)])
    (own,), leaves = with_gradients(parts, ("g", "v"))
    g, v = own["g"], own["v"]
    with pytest.raises(GradcheckError, match="mismatch"):
        torch.autograd.gradgradcheck(lambda v: WeightNorm().compose({"g": g.detach(), "v": v}, spec), (v,))
    assert torch.autograd.gradgradcheck(lambda g: WeightNorm().compose({"g": g, "v": v.detach()}, spec), (g,))
    assert torch.autograd.gradgradcheck(lambda *gv: OUT.compose(dict(zip("gv", gv, strict=True)), spec), leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 2), ()])
def test_the_formula_is_exact_too(kept, dtype):
    weight = sample(16, 6, 3, dtype=dtype)
    for each in (weight, with_zeros(weight, kept), weight.movedim(0, 2), torch.zeros_like(weight)):
        parts, specs = split_all(OUT, [each], kept)
        composed = compose_all(OUT, parts, specs)[0]
        assert tuple(parts[0]) == ("g", "v")
        assert_same_bits(composed, each)
        assert composed.stride() == each.stride()


def test_only_torchs_kernel_has_no_second_derivatives():
    spec = WeightSpec((4, 3, 2), (1,))
    assert OUT.has_second_derivatives(spec)
    assert WeightNorm().has_second_derivatives(spec)
    assert not WeightNorm().has_second_derivatives(WeightSpec((4, 3, 2), (2,)))
    assert WeightNorm().has_second_derivatives(WeightSpec((4, 3, 2), (2,), torch.bfloat16))
    assert OUT.has_second_derivatives(WeightSpec((4, 3, 2), (2,)))


@pytest.mark.parametrize("p", [0.0, 3.0, -1.0])
def test_other_orders_are_refused(p):
    with pytest.raises(OptionError, match=r"weight_norm.p is .*; it must be 1, 2 or inf"):
        WeightNorm(p=p)


def test_kept_dims_are_read_off_g():
    for shape, kept in [((5, 4, 3), (2,)), ((5, 4, 3), ()), ((5, 4, 3), (0, 2)), ((1, 4), (0,)), ((4, 1), (0,))]:
        for scheme in (WeightNorm(), WeightNorm(log_g=True)):
            parts = scheme.split(sample(*shape), WeightSpec.of(sample(*shape), kept))
            assert scheme.infer_kept(parts, default=(1,)) == kept


def test_g_is_that_of_torch():
    weight = sample(4, 6)
    theirs = torch_weight_norm(weight, 0).parametrizations.weight
    ours = WeightNorm().split(weight, WeightSpec.of(weight))
    torch.testing.assert_close(ours["g"], theirs.original0.detach())
    assert bits_equal(ours["v"], theirs.original1)
