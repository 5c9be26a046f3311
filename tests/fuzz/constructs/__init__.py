"""Small modules, one for each thing that a forward may do; importing this package files them all."""

from __future__ import annotations

from tests.fuzz.constructs import (
    arguments,
    fresh,
    gradients,
    hooks,
    mode,
    ordinary,
    questions,
    state,
    state_unregistered,
    weights,
    weights_tied,
    writes,
)
from tests.fuzz.constructs.registry import BATCH, CONSTRUCTS, ORDINARY, WIDTH, Call, Construct, call_with_x

MODULES = (
    arguments,
    fresh,
    gradients,
    hooks,
    mode,
    ordinary,
    questions,
    state,
    state_unregistered,
    weights,
    weights_tied,
    writes,
)

__all__ = ["BATCH", "CONSTRUCTS", "MODULES", "ORDINARY", "WIDTH", "Call", "Construct", "call_with_x"]
