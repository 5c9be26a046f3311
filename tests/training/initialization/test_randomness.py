"""Random generators are put back together."""

from __future__ import annotations

import random

import pytest
import torch

from wnconvert.training.initialization.randomness import Randomness


def drawn() -> tuple[float, float]:
    return torch.rand(()).item(), random.random()


def test_what_was_drawn_is_drawn_again():
    now = Randomness()
    first = drawn()
    assert drawn() != first
    now.restore()
    assert drawn() == first


def test_generators_are_restored_after_errors_too():
    state = torch.get_rng_state()

    @Randomness.restored()
    def fail() -> None:
        drawn()
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
