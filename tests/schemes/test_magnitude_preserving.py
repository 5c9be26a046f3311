"""Magnitude-preserving weights against the paper's formula, written number by number."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import fold, sample
from wnconvert.scheme import WeightSpec
from wnconvert.schemes.magnitude_preserving import MagnitudePreserving


def by_hand(weight: torch.Tensor, gain: float, eps: float) -> torch.Tensor:
    """Equations 47 and 66: each output channel by its root mean square plus eps, over the root of its fan-in."""
    channels = []
    for channel in weight.tolist():
        numbers = torch.tensor(channel, dtype=weight.dtype).flatten().tolist()
        magnitude = eps + math.sqrt(math.fsum(x * x for x in numbers) / len(numbers))
        channels.append([gain * x / magnitude / math.sqrt(len(numbers)) for x in numbers])
    return torch.tensor(channels, dtype=weight.dtype).view_as(weight)


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 3, 3)])
@pytest.mark.parametrize(("gain", "eps"), [(1.0, 1e-4), (0.5, 1e-1)])
def test_it_is_the_formula_of_the_paper(shape, gain, eps):
    mp = sample(*shape)
    composed = MagnitudePreserving(gain=gain, eps=eps).compose({"mp": mp}, WeightSpec.of(mp))
    torch.testing.assert_close(composed, by_hand(mp, gain, eps))


def test_split_stores_elements_of_unit_magnitude():
    mp = MagnitudePreserving().split(sample(4, 64), WeightSpec.of(sample(4, 64)))["mp"]
    # eps is 1e-4, and the smallest magnitude of the sample 0.2
    torch.testing.assert_close(mp.square().mean(1), torch.ones(4).double(), rtol=1e-3, atol=0)


def test_unit_inputs_give_unit_outputs():
    x = torch.randn(10000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ fold(MagnitudePreserving(), sample(4, 64)).t()
    # a mean of 10000 squares of unit normals has a standard deviation of 0.014
    torch.testing.assert_close(y.square().mean(0), torch.ones(4).double(), rtol=0, atol=0.06)
