"""Numbers of each weight of a checkpoint."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from wnconvert import checkpoint
from wnconvert.checkpoint import Checkpoint
from wnconvert.checkpoint.measuring.statistics import BINS, Distribution, statistics
from wnconvert.schemes.weight_norm import WeightNorm

norms = torch.nn.utils.parametrizations


def of(content):
    return {each.name: each for each in statistics(Checkpoint(content, "torch_zip"))}


def test_each_weight_is_measured_as_it_is_composed():
    torch.manual_seed(0)
    net = nn.Sequential(
        norms.weight_norm(nn.Conv1d(3, 6, 4)),
        norms.weight_norm(nn.ConvTranspose1d(6, 5, 4), dim=1),
        nn.utils.weight_norm(nn.Linear(4, 4), dim=None),
        norms.spectral_norm(nn.Linear(9, 4)),
        nn.Embedding(70, 80),
        nn.BatchNorm1d(4),
    ).eval()
    found = of({"net": net.state_dict(), "step": 1})
    assert [*found] == [f"net.{index}.weight" for index in range(5)]
    for index, kept in enumerate([0, 1, 0, 0, 0]):
        each, weight = found[f"net.{index}.weight"], net[index].weight.detach()
        rows = weight.movedim(kept, 0).flatten(1)
        lengths = torch.linalg.vector_norm(rows, dim=1)
        assert (each.shape, each.dtype, each.kept, each.problem) == (tuple(weight.shape), "float32", (kept,), None)
        assert each.norms is not None
        assert each.norms.count == sum(each.norms.bins) == len(rows)
        shown = torch.tensor([each.norms.min, each.norms.max, each.norms.median])
        torch.testing.assert_close(shown, torch.stack([lengths.min(), lengths.max(), lengths.quantile(0.5)]))
        assert each.sigma == pytest.approx(float(torch.linalg.matrix_norm(rows, 2)), rel=1e-4)
    assert [found[f"net.{index}.weight"].scheme for index in range(5)] == [
        "weight_norm", "weight_norm", "weight_norm", "spectral_norm", None,
    ]  # fmt: skip
    assert [found[f"net.{index}.weight"].g is None for index in range(5)] == [False, False, False, True, True]
    assert found["net.1.weight"].g.max == net[1].parametrizations.weight.original0.max().item()
    assert found["net.2.weight"].g.count == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_channels_that_do_nothing_are_counted(dtype):
    weight = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[3] = 0
    weight[4:6] = weight[6] * 1e-4  # dead, and the same; that they are dead counts
    weight[7] = weight[8]
    weight[8, 0] = weight[7, 0] = 0.0
    weight[9] = weight[7]
    weight[9, 0] = -0.0
    (each,) = of({"weight": weight}).values()
    assert (each.zero, each.dead, each.duplicate) == (1, 3, 2)
    assert each.dtype == str(dtype).removeprefix("torch.")


def test_what_is_not_finite_is_counted_apart():
    weight = torch.ones(4, 3)
    weight[0, 0], weight[1] = float("nan"), float("inf")
    (each,) = of({"weight": weight}).values()
    assert (each.norms.count, each.norms.non_finite, each.norms.max) == (4, 2, pytest.approx(3**0.5))
    assert (each.sigma, each.dead, each.duplicate) == (None, 0, 1)
    (each,) = of({"weight": torch.full((2, 2), float("nan"))}).values()
    assert each.norms == Distribution(2, 2, None, None, None, None, None, ())


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_squares_that_overflow_or_vanish_do_not_count(factor):
    weight = torch.randn(70, 80, generator=torch.Generator().manual_seed(0))
    (plain,), (scaled,) = of({"weight": weight}).values(), of({"weight": weight * factor}).values()
    assert scaled.norms.median == pytest.approx(plain.norms.median * factor)
    assert scaled.sigma == pytest.approx(plain.sigma * factor, rel=1e-4)
    assert (scaled.zero, scaled.dead) == (0, 0)
    # a number next to the edge of its part of the way may fall to the other side
    assert sum(abs(a - b) for a, b in zip(scaled.norms.bins, plain.norms.bins, strict=True)) <= 2


def test_what_has_no_numbers_has_a_reason():
    spectral = nn.utils.spectral_norm(nn.Linear(4, 4)).state_dict()
    torch.nn.init.zeros_(spectral["weight_u"])
    found = of({"a": spectral, "weight": torch.zeros(0, 3), "b.weight": torch.zeros(2, 2, device="meta")})
    assert {*found} == {"a.weight_orig", "weight", "b.weight"}
    assert all(each.norms is None and each.sigma is None for each in found.values())
    assert found["weight"].problem == "it is empty, of shape (0, 3)"
    assert found["b.weight"].problem == "it is empty, of shape (2, 2)"
    assert "kept dim" in found["a.weight_orig"].problem


def test_tied_weights_are_measured_once():
    weight = torch.randn(4, 4)
    assert [*of({"a.weight": weight, "b.weight": weight, "c.weight": weight.clone()})] == ["a.weight", "c.weight"]


def test_the_parts_of_a_histogram_are_equal():
    assert Distribution.of(torch.arange(0.0, 2 * BINS)).bins == (2,) * BINS
    assert Distribution.of(torch.full((5,), 0.3)).bins == (5, *(0,) * (BINS - 1))
    assert Distribution.of(torch.tensor([-1e308, 1e308], dtype=torch.float64)).bins == (1, *(0,) * (BINS - 2), 1)
    assert dataclasses.asdict(Distribution.of(torch.tensor([1.0, 2.0, 3.0])))["median"] == 2.0


def test_a_magnitude_with_another_name_is_found():
    weight = torch.randn(4, 3)
    log = checkpoint.apply(Checkpoint({"weight": weight}, "torch_zip"), WeightNorm(log_g=True)).checkpoint
    (each,) = of(log.content).values()
    assert each.g.max == pytest.approx(float(torch.linalg.vector_norm(weight, dim=1).max().log()))
