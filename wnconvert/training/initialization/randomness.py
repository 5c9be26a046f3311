"""The random generators that a forward draws from, put back together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wnconvert.tracing.circumstances import Generators


class Randomness:
    """The states of all random generators now: those of `Generators`, and of the GPUs that are in use."""

    def __init__(self) -> None:
        self._generators = Generators()
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def restore(self) -> None:
        """Put the states back where they were."""
        self._generators.restore()
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)

    @staticmethod
    @contextmanager
    def restored() -> Iterator[None]:
        """Put the generators back where they were, whatever happens."""
        now = Randomness()
        try:
            yield
        finally:
            now.restore()
