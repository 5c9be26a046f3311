"""Modes hold for this thread and for a time; generators go back to where they were."""

from __future__ import annotations

import contextlib
import random
import threading
from itertools import product

import numpy as np
import pytest
import torch

from tests.tracing.behaviour import generators, seed
from wnconvert.tracing.circumstances import Circumstances, Generators, ambient, generators_restored


def modes() -> tuple[bool, ...]:
    return (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled())


@pytest.mark.parametrize(("grad", "autocast", "inference"), list(product((True, False), repeat=3)))
def test_modes_are_in_force_for_a_time(grad: bool, autocast: bool, inference: bool) -> None:
    with torch.no_grad(), torch.autocast("cpu"):
        before = modes()
        with Circumstances(grad=grad, autocast=autocast, inference=inference).hold():
            assert modes() == (grad and not inference, autocast, inference)
            assert torch.is_autocast_enabled("cuda") is autocast
        assert modes() == before


def test_modes_end_with_an_error() -> None:
    before = ambient()
    with pytest.raises(KeyError), Circumstances(grad=False, autocast=True, inference=True).hold():
        raise KeyError
    assert ambient() == before


def test_modes_are_those_of_one_thread() -> None:
    seen = []
    with Circumstances(grad=False, autocast=True, inference=True).hold():
        thread = threading.Thread(target=lambda: seen.append(modes()))
        thread.start()
        thread.join()
    assert seen == [(True, False, False)]


MODES = {
    "no_grad": lambda: torch.no_grad(),
    "inference": lambda: torch.inference_mode(),
    "autocast": lambda: torch.autocast("cpu"),
    "another autocast": lambda: torch.autocast("cpu", dtype=torch.float16, enabled=False),
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
    "saved on the cpu": lambda: torch.autograd.graph.save_on_cpu(),
    "a device": lambda: torch.device("meta"),
    "a kernel of attention": lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
}


@pytest.mark.parametrize("name", MODES)
def test_each_mode_shows(name: str) -> None:
    before = ambient()
    with MODES[name]():
        assert ambient() != before
    assert ambient() == before


def test_a_default_dtype_and_determinism_show() -> None:
    before = ambient()
    torch.set_default_dtype(torch.float64)
    try:
        assert ambient() != before
    finally:
        torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        assert ambient() != before
    finally:
        torch.use_deterministic_algorithms(False)
    assert ambient() == before


def test_a_mode_that_handles_a_function_still_counts() -> None:
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append((ambient(), ambient(handling=True)))
            return func(*args, **(kwargs or {}))

    with Mode():
        outside = ambient()
        torch.ones(1)
    assert seen[0][1] == outside
    assert seen[0][0] != outside


DRAWS = {
    "torch": lambda: torch.rand(1),
    "Python": random.random,
    "NumPy": np.random.rand,
    "a seed": lambda: torch.manual_seed(1),
    "a seed of Python": lambda: random.seed(1),
    "a seed of NumPy": lambda: np.random.seed(1),
    "a normal number": lambda: random.gauss(0, 1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_is_put_back(name: str) -> None:
    seed(5)
    before = generators()
    states = Generators()
    assert not states.restore()
    DRAWS[name]()
    assert generators() != before
    assert states.restore()
    assert generators() == before
    assert not states.restore()
    with contextlib.suppress(KeyError), generators_restored():
        DRAWS[name]()
        raise KeyError
    assert generators() == before


def test_a_function_that_restores_generators_may_be_decorated() -> None:
    @generators_restored()
    def draw() -> float:
        return random.random()

    before = generators()
    assert draw() == draw()
    assert generators() == before
