"""The hooks by which torch's older functions normalize weights.

torch has deprecated them, and models that were saved with them stay. So they are looked up where a hook is met; where
torch has dropped a class, no module has a hook of that class, and nothing else breaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any


@dataclass(frozen=True, eq=False)
class Hook:
    """A kind of hook.

    Attributes:
        function: the function of `torch.nn.utils` that registers it, and its module there.
        class_name: its class.
        parts: what it computes the weight from: names of tensors of the module, after that of the weight.
        evaluating: how its ``compute_weight`` is asked for what an evaluation forward computes.
    """

    function: str
    class_name: str
    parts: tuple[str, ...]
    evaluating: Mapping[str, Any] = field(default_factory=dict)


WEIGHT_NORM = Hook("weight_norm", "WeightNorm", ("g", "v"))
SPECTRAL_NORM = Hook("spectral_norm", "SpectralNorm", ("orig", "u", "v"), {"do_power_iteration": False})


def kind_of(hook: Any) -> Hook | None:
    """Return which of torch's hooks something is that runs before a forward, or None."""
    return next((kind for kind in (WEIGHT_NORM, SPECTRAL_NORM) if isinstance(hook, _class_of(kind))), None)


def is_torchs_own(hook: Any, kind: Hook) -> bool:
    """Return whether a hook of that kind is of torch's very class, and not of one that derives from it."""
    return type(hook) is _class_of(kind)


@cache
def _class_of(kind: Hook) -> Any:
    """Return the class, or what nothing is an instance of."""
    try:
        return getattr(import_module(f"torch.nn.utils.{kind.function}"), kind.class_name, ())
    except ImportError:
        return ()
