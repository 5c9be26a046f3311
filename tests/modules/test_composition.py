"""Modules compose by one node of autograd, which can do all that the formula can."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import wnconvert
from tests.contract import ALL, CASES
from tests.helpers import (
    DTYPES,
    assert_same_bits,
    perturbed,
    sample,
    split_all,
    trained,
    variant_id,
    with_gradients,
    with_zeros,
)
from wnconvert.modules.composition import composed
from wnconvert.schemes._closed import ClosedScheme
from wnconvert.schemes.sigma_reparam import SigmaReparam
from wnconvert.schemes.unit_norm import UnitNorm
from wnconvert.schemes.weight_standardization import WeightStandardization

# torch writes derivatives of forward mode with what it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script")

CLOSED = [scheme for scheme in ALL if isinstance(scheme, ClosedScheme)]
each_closed = pytest.mark.parametrize("scheme", CLOSED, ids=variant_id)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    for scheme in CLOSED:
        monkeypatch.setattr(type(scheme), "worthwhile", 0)


#: large enough for the quick standard deviation
LARGE = (64, 8, 3, 3)


def leaves_of(scheme, weight, kept=(0,)):
    parts, (spec,) = split_all(scheme, [weight], kept)
    (own,), leaves = with_gradients(perturbed(parts, scheme), trained(scheme))
    return own, leaves, spec


def is_one_node(weight: torch.Tensor) -> bool:
    return type(weight.grad_fn).__name__ == "_CompositionBackward"


def compare(scheme, own, leaves, spec, gradient) -> torch.Tensor:
    """Compare bits and gradients with those of the formula; return what was composed."""
    found, expected = composed(scheme, own, spec), scheme.compose(own, spec)
    assert_same_bits(found.detach(), expected.detach())
    assert found.stride() == expected.stride()
    trains = [leaf for leaf in leaves if leaf.requires_grad]
    for one, other in zip(
        torch.autograd.grad(found, trains, gradient), torch.autograd.grad(expected, trains, gradient), strict=True
    ):
        torch.testing.assert_close(one, other)
    return found


@each_closed
@each_dtype
def test_bits_and_gradients_are_those_of_the_formula(scheme, dtype):
    ways = set()
    for shape, kept in [*CASES, (LARGE, (0,)), (LARGE, (1,))]:
        weight = sample(*shape, dtype=dtype)
        found = compare(scheme, *leaves_of(scheme, weight, kept), sample(*shape, dtype=dtype, seed=7))
        ways.add(is_one_node(found))
    plain = dtype not in (torch.float32, torch.float64) or not (
        getattr(scheme, "eps_in_root", True) and not getattr(scheme, "unbiased", False)
    )
    assert (True in ways) is not plain


@each_closed
def test_orders_of_memory(scheme):
    for weight in (
        sample(*LARGE).contiguous(memory_format=torch.channels_last),
        sample(64, 1, 3, 3).contiguous(memory_format=torch.channels_last),
        sample(8, 64, 9).movedim(0, 1),
        sample(70, 64).t(),
    ):
        for kept in ((0,), (1,), ()):
            own, _, spec = leaves_of(scheme, weight.float(), kept)
            assert_same_bits(composed(scheme, own, spec).detach(), scheme.compose(own, spec).detach())
            own, leaves, spec = leaves_of(scheme, weight, kept)
            gradient = sample(*weight.shape, seed=7)
            compare(scheme, own, leaves, spec, gradient)
            compare(scheme, own, leaves, spec, torch.ones(()).expand(weight.shape))
            compare(scheme, own, leaves, spec, torch.empty_like(weight).copy_(gradient))


@each_closed
@pytest.mark.parametrize("kept", [(0,), (1,)])
def test_small_parts_may_lie_anywhere_in_memory(scheme, kept):
    weight = sample(256, 300)
    for place in (lambda part: torch.stack([part, part + 3], -1)[..., 0], lambda part: part.mean().expand(part.shape)):
        own, _, spec = leaves_of(scheme, weight, kept)
        own = {
            name: place(part).detach().requires_grad_(part.requires_grad) if part.shape == spec.kept_shape else part
            for name, part in own.items()
        }
        compare(scheme, own, list(own.values()), spec, sample(256, 300, seed=7))


def test_a_norm_that_overflows_has_the_gradients_of_the_formula():
    compared = set()
    for scheme in CLOSED:
        own, _, spec = leaves_of(scheme, sample(64, 96, dtype=torch.float32))
        own = {name: part.detach().clone().requires_grad_(part.requires_grad) for name, part in own.items()}
        with torch.no_grad():
            own[scheme.direction] *= 1e25
        overflown = not all(each.isfinite().all() for each in scheme.statistics(own, spec))
        if overflown and scheme.compose(own, spec).isfinite().all():
            compare(scheme, own, list(own.values()), spec, sample(64, 96, dtype=torch.float32, seed=7))
            compared.add(scheme.name)
    assert "magnitude_preserving" in compared  # of the others, nothing is left to train with


@each_closed
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_its_own(scheme):
    for frozen in trained(scheme):
        own, leaves, spec = leaves_of(scheme, sample(*LARGE))
        own[frozen].requires_grad_(False)
        if any(leaf.requires_grad for leaf in leaves):
            compare(scheme, own, leaves, spec, sample(*LARGE, seed=7))
        else:
            assert not composed(scheme, own, spec).requires_grad


@each_closed
@pytest.mark.parametrize(("shape", "kept"), [((3, 4), (0,)), ((3, 4), (1,)), ((2, 3, 2), (1,)), ((3, 2), ())])
def test_gradients_can_be_differentiated_again(scheme, shape, kept):
    own, leaves, spec = leaves_of(scheme, sample(*shape), kept)
    names = trained(scheme)

    def compose(*values):
        return composed(scheme, {**own, **dict(zip(names, values, strict=True))}, spec)

    assert torch.autograd.gradcheck(compose, leaves)
    assert torch.autograd.gradcheck(compose, leaves, check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(compose, leaves)
    assert torch.autograd.gradcheck(compose, leaves, check_batched_grad=True)


@each_closed
def test_a_row_of_zeros(scheme):
    for rows in (with_zeros(sample(*LARGE, dtype=torch.float32), (0,)), torch.zeros(LARGE)):
        parts, (spec,) = split_all(scheme, [rows])
        (own,), leaves = with_gradients(parts, trained(scheme))
        compare(scheme, own, leaves, spec, sample(*LARGE, dtype=torch.float32, seed=7))


@each_closed
@each_dtype
def test_under_autocast(scheme, dtype):
    own, leaves, spec = leaves_of(scheme, sample(*LARGE, dtype=dtype))
    plain = composed(scheme, own, spec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compare(scheme, own, leaves, spec, sample(*LARGE, dtype=dtype, seed=7))
        assert_same_bits(found.detach(), plain.detach())


def net(scheme) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Flatten(), nn.Linear(64, 3))
    return wnconvert.apply(model, scheme).model


each_scheme = pytest.mark.parametrize("scheme", [UnitNorm(), WeightStandardization(), SigmaReparam()], ids=variant_id)


@each_scheme
def test_modules_take_it_and_learn_as_graphs_do(scheme):
    module = net(scheme)
    assert is_one_node(module[0].weight)
    graph = wnconvert.apply(wnconvert.trace(wnconvert.fold(net(scheme)).model), scheme).model
    graph.load_state_dict(module.state_dict())
    x = torch.randn(2, 8, 3, 3)
    for model in (module, graph):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, graph.state_dict()[name])


def doubled(leaves):
    for leaf in leaves:
        leaf.register_hook(lambda gradient: gradient * 2)
    return contextlib.nullcontext()


@each_closed
@pytest.mark.parametrize(
    "watched",
    [lambda _: torch.autograd.graph.save_on_cpu(), lambda _: torch.autograd.detect_anomaly(check_nan=False), doubled],
    ids=["saved elsewhere", "anomaly", "hooks"],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
def test_who_watches_a_backward_changes_nothing(scheme, watched):
    found = []
    for compose in (composed, scheme.compose):
        own, _, spec = leaves_of(scheme, sample(*LARGE))
        own = {name: part.detach().clone().requires_grad_(part.requires_grad) for name, part in own.items()}
        leaves = [part for part in own.values() if part.requires_grad]
        with watched(leaves):
            weight = compose(scheme, own, spec) if compose is composed else compose(own, spec)
            weight.square().sum().backward(retain_graph=True)
            weight.sum().backward()  # once more
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@each_scheme
def test_checkpointing_keeps_the_gradients(scheme):
    x = torch.randn(2, 8, 3, 3)
    model = net(scheme).eval()
    other = copy.deepcopy(model)
    model(x).sum().backward()
    for reentrant in (True, False):
        other.zero_grad()
        checkpoint(other, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert_same_bits(mine.grad, theirs.grad)


@each_scheme
def test_what_follows_a_forward_sees_the_formula(scheme):
    model = net(scheme).eval()
    x = torch.randn(2, 8, 3, 3)
    program = torch.export.export(model, (x,))
    assert not [node for node in program.graph.nodes if "autograd" in str(node.target)]
    torch.testing.assert_close(program.module()(x), model(x))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        assert forward_ad.unpack_dual(model(dual)).tangent is not None
    per_sample = torch.func.vmap(
        torch.func.grad(lambda p, x: torch.func.functional_call(model, p, (x[None],)).sum()), (None, 0)
    )(dict(model.named_parameters()), x)
    model(x).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), parameter.grad)


@each_scheme
def test_less_is_kept_for_the_backward(scheme):
    own, _, spec = leaves_of(scheme, sample(*LARGE))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        composed(scheme, own, spec)
    assert sum(size == spec.rows * spec.fan_in for size in sizes) == 1  # the direction, which is there anyway


def test_the_compiler_sees_all_of_it():
    model = net(WeightStandardization())
    x = torch.randn(2, 8, 3, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_other_devices_and_mixed_dtypes_take_the_formula():
    parts, (spec,) = split_all(UnitNorm(), [sample(4, 6)])
    (own,), _ = with_gradients(parts, ("direction",))
    assert is_one_node(composed(UnitNorm(), own, spec))
    assert not is_one_node(composed(UnitNorm(), {"direction": own["direction"].to("meta")}, spec))
    parts, (spec,) = split_all(WeightStandardization(), [sample(4, 6)])
    (own,), _ = with_gradients(parts, ("gain", "raw"))
    assert is_one_node(composed(WeightStandardization(), own, spec))
    assert not is_one_node(composed(WeightStandardization(), {**own, "gain": own["gain"].float()}, spec))


@each_closed
def test_small_weights_take_the_formula(scheme, monkeypatch):
    monkeypatch.setattr(type(scheme), "worthwhile", 25)
    for shape, is_large in [((4, 6), False), ((5, 6), True)]:
        own, _, spec = leaves_of(scheme, sample(*shape))
        assert is_one_node(composed(scheme, own, spec)) is (is_large and scheme.has_gradients(own, spec))
