"""The circumstances of a forward: which modes hold for it, and what other state it might change."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Circumstances:
    """The modes in which a forward is run.

    Attributes:
        other_mode: every module is in the other one of training and evaluation.
        grad: gradients are computed.
        autocast: autocast is on.
    """

    other_mode: bool = False
    grad: bool = True
    autocast: bool = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Put the modes in force, for this thread alone."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(self.grad))
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
        # private, and the only way to see a hook on saved tensors, which is how checkpointing works
        torch._C._autograd._top_saved_tensors_default_hooks(True) is not None,
        torch._C._len_torch_function_stack() + handling,
    )


@contextmanager
def generators_restored() -> Iterator[None]:
    """Put the random generators of Python and NumPy back to where they were, if they were used."""
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    before: Any = None if numpy is None else numpy.random.get_state(legacy=False)
    try:
        yield
    finally:
        if random.getstate() != python:
            random.setstate(python)
        if numpy is not None and str(numpy.random.get_state(legacy=False)) != str(before):
            numpy.random.set_state(before)
