"""What all tests begin with."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws numbers draws the same ones whenever it runs, and whatever ran before it."""
    torch.manual_seed(0)
