"""How the tensors of two files differ."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wnconvert.checkpoint import Checkpoint, Reading, apply
from wnconvert.checkpoint.comparing.effective import effective
from wnconvert.checkpoint.measuring import against
from wnconvert.checkpoint.measuring.against import differences


def of(content):
    checkpoint = content if isinstance(content, Checkpoint) else Checkpoint(content, "torch_zip")
    return effective(checkpoint, Reading())


def found(first, second):
    return {each.name: each for each in differences(of(first), of(second)).differing}


def test_norms_and_angles_are_those_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 4, 3, generator=generator), torch.randn(5, 4, 3, generator=generator)
    each = found({"weight": a}, {"weight": b})["weight"]
    assert (each.status, each.shapes, each.dtypes) == ("changed", ((5, 4, 3),) * 2, ("float32",) * 2)
    assert each.norms == pytest.approx((a.norm().item(), b.norm().item()))
    assert each.change == pytest.approx((a - b).norm().item() / b.norm().item())
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    assert each.angle == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-5)
    cosines = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    assert each.angle_max == pytest.approx(math.degrees(math.acos(cosines.min())), rel=1e-5)


@pytest.mark.parametrize("degrees", [180.0, 90.0, 1.0, 1e-5])
def test_angles_are_told_however_small(degrees):
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    turn = math.radians(degrees)
    b = torch.tensor([[math.cos(turn), math.sin(turn)], [0.0, 3.0]], dtype=torch.float64)
    each = found({"weight": a}, {"weight": b})["weight"]
    assert each.angle_max == pytest.approx(degrees)


def test_blocks_are_put_together(monkeypatch):
    a, b = torch.randn(50, 7), torch.randn(50, 7)
    whole = found({"weight": a, "bias": a[0]}, {"weight": b, "bias": b[0]})
    monkeypatch.setattr(against, "BLOCK", 20)
    for name, each in found({"weight": a, "bias": a[0]}, {"weight": b, "bias": b[0]}).items():
        expected = whole[name]
        assert each.norms == pytest.approx(expected.norms)
        assert (each.change, each.angle) == pytest.approx((expected.change, expected.angle))
        assert each.angle_max == (None if name == "bias" else pytest.approx(expected.angle_max))


def test_layouts_and_places_do_not_count():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 3, 4), nn.BatchNorm1d(3)).state_dict()
    split = apply(Checkpoint({"model": net, "step": 1}, "torch_zip"), "weight_norm").checkpoint
    told = differences(of(split), of(net))
    assert (told.compared, told.equal, told.differing) == (7, 7, ())
    net = {**net, "0.weight": net["0.weight"] * 2}
    (each,) = differences(of(split), of(net)).differing
    assert (each.name, each.change) == ("model.0.weight", pytest.approx(0.5))
    # powers of two are exact, and the direction is the same to the bit
    assert (each.angle, each.angle_max) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))


def test_what_only_one_has_and_what_has_other_sizes_is_told():
    first = {"a.weight": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(2), "i": torch.tensor(3)}
    second = {"a.weight": torch.ones(2, 2), "c": torch.ones(2).half(), "d": torch.ones(5), "i": torch.tensor(4)}
    told = found(first, second)
    assert [(name, each.status) for name, each in told.items()] == [
        ("a.weight", "changed"), ("c", "changed"), ("i", "changed"), ("b", "extra"), ("d", "missing"),
    ]  # fmt: skip
    assert told["a.weight"].shapes == ((2, 3), (2, 2))
    assert (told["a.weight"].norms, told["a.weight"].change) == (pytest.approx((6**0.5, 2.0)), None)
    assert (told["c"].dtypes, told["c"].change) == (("float32", "float16"), 0.0)
    assert (told["i"].norms, told["i"].change, told["i"].angle) == ((3.0, 4.0), 0.25, None)
    assert (told["b"].shapes, told["d"].shapes) == (((4,), None), (None, (5,)))
    assert (told["b"].dtypes, told["d"].dtypes) == (("float32", None), (None, "float32"))


def test_what_is_zero_or_not_finite_has_no_angle():
    odd = torch.tensor([[1.0, float("nan")], [1.0, 1.0]])
    each = found({"weight": odd}, {"weight": torch.ones(2, 2)})["weight"]
    assert (each.norms, each.change, each.angle) == ((None, 2.0), None, None)
    each = found({"weight": torch.ones(2, 2)}, {"weight": torch.zeros(2, 2)})["weight"]
    assert (each.norms, each.change, each.angle, each.angle_max) == ((2.0, 0.0), None, None, None)
    complex_one = {"weight": torch.ones(2, 2, dtype=torch.complex64)}
    assert found(complex_one, {"weight": torch.zeros(2, 2)})["weight"].norms == (None, 0.0)
