"""wnconvert: the compiler for weight normalization in PyTorch.

The public names are loaded on first use, so that ``import wnconvert`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wnconvert.api import Conversion, apply, find_weighted_ops, fold
    from wnconvert.errors import (
        CheckpointError,
        CopyError,
        KindError,
        NothingToConvertError,
        OptionError,
        OutputError,
        TracingError,
        UnknownNameError,
        UnsafePickleError,
        VerificationError,
        WnconvertError,
        WnconvertWarning,
    )
    from wnconvert.modules.guards import check
    from wnconvert.passes.apply import ApplyPass
    from wnconvert.passes.fold import FoldPass
    from wnconvert.reasons import Reason, Why
    from wnconvert.report import Converted, Finding, Report, Skipped
    from wnconvert.scheme import SCHEMES, Scheme, WeightSpec, register
    from wnconvert.schemes.centered_weight_norm import CenteredWeightNorm
    from wnconvert.schemes.magnitude_preserving import MagnitudePreserving
    from wnconvert.schemes.network_norm import NetworkNorm
    from wnconvert.schemes.scaled_weight_standardization import ScaledWeightStandardization
    from wnconvert.schemes.sigma_reparam import SigmaReparam
    from wnconvert.schemes.spectral_norm import SpectralNorm
    from wnconvert.schemes.unit_norm import UnitNorm
    from wnconvert.schemes.weight_norm import WeightNorm
    from wnconvert.schemes.weight_standardization import WeightStandardization
    from wnconvert.selection import Selection, WeightedOp
    from wnconvert.tracing.tracing import trace
    from wnconvert.weighted_op import WeightedOpRule, register_weighted_op

_MODULE_OF = {
    "ApplyPass": "passes.apply",
    "CheckpointError": "errors",
    "Conversion": "api",
    "Converted": "report",
    "CopyError": "errors",
    "Finding": "report",
    "FoldPass": "passes.fold",
    "KindError": "errors",
    "NothingToConvertError": "errors",
    "OptionError": "errors",
    "OutputError": "errors",
    "Reason": "reasons",
    "Report": "report",
    "SCHEMES": "scheme",
    "Scheme": "scheme",
    "Selection": "selection",
    "Skipped": "report",
    "TracingError": "errors",
    "UnknownNameError": "errors",
    "UnsafePickleError": "errors",
    "VerificationError": "errors",
    "WeightSpec": "scheme",
    "WeightedOp": "selection",
    "WeightedOpRule": "weighted_op",
    "Why": "reasons",
    "WnconvertError": "errors",
    "WnconvertWarning": "errors",
    "apply": "api",
    "check": "modules.guards",
    "find_weighted_ops": "api",
    "fold": "api",
    "register": "scheme",
    "register_weighted_op": "weighted_op",
    "trace": "tracing.tracing",
}

__all__ = [
    "SCHEMES",
    "ApplyPass",
    "CenteredWeightNorm",
    "CheckpointError",
    "Conversion",
    "Converted",
    "CopyError",
    "Finding",
    "FoldPass",
    "KindError",
    "MagnitudePreserving",
    "NetworkNorm",
    "NothingToConvertError",
    "OptionError",
    "OutputError",
    "Reason",
    "Report",
    "ScaledWeightStandardization",
    "Scheme",
    "Selection",
    "SigmaReparam",
    "Skipped",
    "SpectralNorm",
    "TracingError",
    "UnitNorm",
    "UnknownNameError",
    "UnsafePickleError",
    "VerificationError",
    "WeightNorm",
    "WeightSpec",
    "WeightStandardization",
    "WeightedOp",
    "WeightedOpRule",
    "Why",
    "WnconvertError",
    "WnconvertWarning",
    "apply",
    "check",
    "find_weighted_ops",
    "fold",
    "register",
    "register_weighted_op",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"wnconvert.{_MODULE_OF[name]}"), name)
    elif not name.startswith("_") and name in _schemes():
        value = _schemes()[name]
    else:
        raise AttributeError(f"module 'wnconvert' has no attribute {name!r}")
    globals()[name] = value
    return value


def _schemes() -> dict[str, Any]:
    """Return the classes of all schemes, whoever wrote them, by name."""
    from wnconvert.scheme import SCHEMES

    return {kind.__name__: kind for kind in map(SCHEMES.get, SCHEMES)}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
