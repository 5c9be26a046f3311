"""What is measured of one weight, against the definitions computed by themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import wnconvert
from tests.training.models import MAKERS, plain
from wnconvert.training.composed import composed_weights
from wnconvert.training.monitor.measuring import MEASURES, Gauge, Limits, Record, gathered, magnitude_of, summaries

X = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(1))


def seen(model: nn.Module, lr: float | None = 0.1, step: bool = True) -> list[dict]:
    """The numbers of all weights after one step of SGD."""
    weights = composed_weights(model)
    with torch.no_grad():
        gauges = [Gauge(weight, each) for weight, each in zip(weights, gathered(weights), strict=True)]
    if step:
        model(X).square().mean().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    with torch.no_grad():
        looks = [
            gauge.look(weight, each, aimed=True)
            for gauge, weight, each in zip(gauges, weights, gathered(weights), strict=True)
        ]
        return summaries(looks, [gauge.usual for gauge in gauges], [lr] * len(weights), Limits())


def rows(x: Tensor, kept: int) -> Tensor:
    return x.detach().movedim(kept, 0).flatten(1).double()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_number_is_what_it_is_defined_as(make):
    before = make()
    model = make()
    model.load_state_dict(before.state_dict())
    found = seen(model)
    for old, new, values in zip(composed_weights(before), composed_weights(model), found, strict=True):
        (kept,) = new.spec.kept
        was, v, gradient = (rows(x, kept) for x in (old.direction, new.direction, new.direction.grad))
        g = new.parts["g"].detach().double().flatten()
        length = v.norm(dim=1)
        unit = v / length[:, None]
        at = was / was.norm(dim=1, keepdim=True)  # where the gradient was computed
        along = (gradient * at).sum(1)
        angle = torch.rad2deg(torch.acos((unit * at).sum(1)))
        expected = {
            "norm": g.abs().mean(),
            "norm_min": g.abs().min(),
            "norm_max": g.abs().max(),
            "g": g.mean(),
            "g_min": g.min(),
            "g_max": g.max(),
            "angle": angle.mean(),
            "angle_max": angle.max(),
            "effective_lr": (0.1 / length**2).mean(),
            "tangential": (gradient - along[:, None] * at).norm(),
            "gradient_g": new.parts["g"].grad.norm().double(),
        }
        assert {*values} == {*expected, "radial", "dead", "exploding"} == {*MEASURES}
        for name, value in expected.items():
            # of numbers in float32, and of the arc cosine of what is nearly 1
            assert values[name] == pytest.approx(value.item(), rel=1e-3 if "angle" in name else 2e-6), name
        # nothing of the gradient goes along v, up to rounding
        assert values["radial"] < 1e-6 * values["tangential"]
        assert (values["dead"], values["exploding"]) == (0, 0)


@pytest.mark.parametrize("angle", [1e-4, 0.3, 90.0, 179.0])
def test_angles_are_right_at_every_size(angle):
    """An arc cosine in float32 sees nothing below 0.02 degrees."""
    model = wnconvert.apply(nn.Sequential(nn.Linear(2, 3))).model
    (weight,) = composed_weights(model)
    with torch.no_grad():
        weight.direction.copy_(torch.tensor([[1.0, 0.0]] * 3))
        gauge = Gauge(weight, {})
        turned = math.radians(angle)
        weight.direction.copy_(5 * torch.tensor([[math.cos(turned), math.sin(turned)]] * 3))
        look = gauge.look(weight, {})
        assert summaries([look], [1.0], [None], Limits())[0]["angle"] == pytest.approx(angle, rel=1e-4)
        assert summaries([gauge.look(weight, {})], [1.0], [None], Limits())[0]["angle"] == 0.0


def test_a_gradient_is_split_along_the_whole_where_one_number_divides_the_whole():
    model = wnconvert.apply(plain(), "spectral_norm").model
    weight, _ = composed_weights(model)
    model(X).square().mean().backward()
    with torch.no_grad():
        weight.direction.grad.add_(weight.direction)  # which no loss does, but weight decay by hand
    values, _ = seen(model, step=False)
    w, gradient = weight.direction.detach().flatten().double(), weight.direction.grad.flatten().double()
    along = (gradient @ w) / w.norm()
    assert values["radial"] == pytest.approx(along.item(), rel=1e-5)
    assert values["tangential"] == pytest.approx((gradient - along * w / w.norm()).norm().item(), rel=1e-3)
    assert values["radial"] > values["tangential"]
    sigma = weight.scheme.divisor(weight.parts, weight.spec).item()
    assert values["effective_lr"] == pytest.approx(0.1 / sigma**2, rel=1e-5)
    assert "g" not in values


@pytest.mark.parametrize("scheme", list(wnconvert.SCHEMES))
@pytest.mark.parametrize("how", ["module", "graph"])
def test_every_scheme_has_norms_angles_and_gradients(scheme, how):
    model = wnconvert.apply(plain(), scheme, how=how).model
    found = seen(model)
    assert len(found) == 2
    for values, path in zip(found, ("0", "2"), strict=True):
        weight = model.get_submodule(path).weight if how == "module" else None
        assert all(math.isfinite(value) for value in values.values())
        assert values["angle"] > 0
        assert values["tangential"] > 0
        if weight is not None and scheme not in ("spectral_norm", "sigma_reparam"):  # whose state takes a step there
            kept = next(each.spec.kept for each in composed_weights(model) if each.fqn == f"{path}.weight")
            dims = [dim for dim in range(3) if dim not in kept]
            norms = torch.linalg.vector_norm(weight.detach(), dim=dims)
            assert values["norm_max"] == pytest.approx(norms.max().item(), rel=1e-5)


def test_the_magnitude_is_found_by_what_it_does():
    expected = {
        wnconvert.WeightNorm(log_g=True): "s",
        wnconvert.CenteredWeightNorm(): "g",
        wnconvert.WeightStandardization(): "gain",
        wnconvert.SigmaReparam(): "gamma",
        wnconvert.NetworkNorm(): "network_g",
        wnconvert.SpectralNorm(): None,
        wnconvert.UnitNorm(): None,
    }
    for scheme, part in expected.items():
        weight = composed_weights(wnconvert.apply(plain(), scheme).model)[0]
        assert magnitude_of(weight) == part


def test_dead_and_exploding_rows_are_counted():
    model = wnconvert.apply(nn.Sequential(nn.Linear(8, 6))).model
    (weight,) = composed_weights(model)
    gauge = Gauge(weight, {})
    with torch.no_grad():
        weight.parts["g"].copy_(torch.tensor([0.0, 1e-5, 1.0, 1e3, math.inf, math.nan])[:, None])
        (values,) = summaries([gauge.look(weight, {})], [1.0], [None], Limits())
        assert (values["dead"], values["exploding"]) == (2, 3)
        (values,) = summaries([gauge.look(weight, {})], [1.0], [None], Limits(dead=1e-6, exploding=1e4))
        assert (values["dead"], values["exploding"]) == (1, 2)


def test_of_a_weight_of_zeros_all_rows_are_dead_and_none_explodes_when_it_grows():
    layer = nn.Linear(8, 6)
    nn.init.zeros_(layer.weight)
    model = wnconvert.apply(nn.Sequential(layer)).model
    (weight,) = composed_weights(model)
    gauge = Gauge(weight, {})
    assert gauge.usual == 0
    with torch.no_grad():
        (values,) = summaries([gauge.look(weight, {})], [gauge.usual], [None], Limits())
        assert (values["dead"], values["exploding"], values["angle"]) == (6, 0, 0.0)
        weight.parts["g"].fill_(0.5)
        (values,) = summaries([gauge.look(weight, {})], [gauge.usual], [None], Limits())
        assert (values["dead"], values["exploding"]) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_every_dtype_are_measured(dtype):
    model = wnconvert.apply(nn.Sequential(nn.Linear(8, 4, dtype=dtype)), "weight_norm").model
    (values,) = seen(model, step=False)
    assert values["norm"] == pytest.approx(model[0].weight.double().norm(dim=1).mean().item(), rel=1e-2)
    assert values["angle"] == 0


def test_what_there_is_no_gradient_of_is_left_out():
    (values, _) = seen(MAKERS["module"](), lr=None, step=False)
    assert not {"radial", "tangential", "gradient_g", "effective_lr"} & {*values}
    assert Record(0, "0.weight", "weight_norm", **values).radial is None


def test_gradients_that_are_no_numbers_are_said_to_be():
    model = wnconvert.apply(plain()).model
    model[0].weight_v.grad = torch.full_like(model[0].weight_v, math.nan)
    model[0].weight_g.grad = torch.full_like(model[0].weight_g, math.inf)
    values, _ = seen(model, step=False)
    assert math.isnan(values["radial"])
    assert math.isnan(values["tangential"])
    assert math.isinf(values["gradient_g"])


def test_of_nothing_nothing_is_said():
    assert summaries([], [], [], Limits()) == []
