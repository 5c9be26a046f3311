"""The circumstances of a forward: which modes hold for it, and what other state it might change."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wnconvert.torch_private import function_modes, has_saved_tensor_hooks

_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Circumstances:
    """The modes in which a forward is run.

    Attributes:
        other_mode: every module is in the other one of training and evaluation.
        grad: gradients are computed.
        autocast: autocast is on.
        inference: inference mode is on.
    """

    other_mode: bool = False
    grad: bool = True
    autocast: bool = False
    inference: bool = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Put the modes in force, for this thread alone."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.grad and not self.inference))
            before = [torch.is_autocast_enabled(device) for device in _DEVICES]
            for device in _DEVICES:
                torch.set_autocast_enabled(device, self.autocast)
            try:
                yield
            finally:
                for device, enabled in zip(_DEVICES, before, strict=True):
                    torch.set_autocast_enabled(device, enabled)


def ambient(handling: bool = False) -> tuple[Any, ...]:
    """Return all modes of this thread that a call is computed in, to be compared.

    Args:
        handling: the caller handles a function for a `TorchFunctionMode`, which torch takes off the stack meanwhile.
    """
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *(torch.is_autocast_enabled(device) for device in _DEVICES),
        *(torch.get_autocast_dtype(device) for device in _DEVICES),
        has_saved_tensor_hooks(),
        function_modes() + handling,
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        torch.backends.cuda.math_sdp_enabled(),  # type: ignore[no-untyped-call]
        torch.backends.cuda.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
    )


class Generators:
    """The states of all random generators that a forward may draw from or seed: torch's, Python's and NumPy's."""

    def __init__(self) -> None:
        self._numpy: Any = sys.modules.get("numpy")
        self._states = self._read()

    def restore(self) -> bool:
        """Put the states back where they were, and return whether any was changed."""
        changed = False
        for (kind, before), (_, now) in zip(self._states, self._read(), strict=True):
            if not _same(before, now):
                changed = True
                kind(before)
        return changed

    def _read(self) -> list[tuple[Any, Any]]:
        states: list[tuple[Any, Any]] = [
            (torch.set_rng_state, torch.get_rng_state()),
            (random.setstate, random.getstate()),
        ]
        if self._numpy is not None:
            states.append((self._numpy.random.set_state, self._numpy.random.get_state()))
        return states


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    # NumPy's holds an array
    return len(a) == len(b) and all(
        bool((x == y).all()) if hasattr(x, "all") else x == y for x, y in zip(a, b, strict=True)
    )


@contextmanager
def generators_restored() -> Iterator[None]:
    """Put the random generators back where they were, if they were used."""
    generators = Generators()
    try:
        yield
    finally:
        generators.restore()
