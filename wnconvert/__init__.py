"""wnconvert: the compiler for weight normalization in PyTorch.

The public names are loaded on first use, so that ``import wnconvert`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wnconvert.api import (
        Conversion as Conversion,
        ConvertedProgram as ConvertedProgram,
        apply as apply,
        find_weighted_ops as find_weighted_ops,
        fold as fold,
        fuse as fuse,
    )
    from wnconvert.deploying.checking import check as check
    from wnconvert.deploying.exporting import Export as Export, export as export
    from wnconvert.errors import (
        CheckpointError as CheckpointError,
        CopyError as CopyError,
        DeviceError as DeviceError,
        IncompleteError as IncompleteError,
        KindError as KindError,
        NothingToConvertError as NothingToConvertError,
        OptionError as OptionError,
        OutputError as OutputError,
        TracingError as TracingError,
        UnknownNameError as UnknownNameError,
        UnsafePickleError as UnsafePickleError,
        VerificationError as VerificationError,
        WnconvertError as WnconvertError,
        WnconvertWarning as WnconvertWarning,
    )
    from wnconvert.mean_only_batch_norm import MeanOnlyBatchNorm as MeanOnlyBatchNorm
    from wnconvert.modules.caching import cached as cached
    from wnconvert.passes.apply import ApplyPass as ApplyPass
    from wnconvert.passes.fold import FoldPass as FoldPass
    from wnconvert.passes.fuse import FusePass as FusePass
    from wnconvert.reasons import Reason as Reason, Why as Why
    from wnconvert.report import (
        Converted as Converted,
        Finding as Finding,
        Fused as Fused,
        Measured as Measured,
        Report as Report,
        Skipped as Skipped,
    )
    from wnconvert.scheme import SCHEMES as SCHEMES, Scheme as Scheme, WeightSpec as WeightSpec, register as register
    from wnconvert.schemes.centered_weight_norm import CenteredWeightNorm as CenteredWeightNorm
    from wnconvert.schemes.magnitude_preserving import MagnitudePreserving as MagnitudePreserving
    from wnconvert.schemes.network_norm import NetworkNorm as NetworkNorm
    from wnconvert.schemes.scaled_weight_standardization import (
        ScaledWeightStandardization as ScaledWeightStandardization,
    )
    from wnconvert.schemes.sigma_reparam import SigmaReparam as SigmaReparam
    from wnconvert.schemes.spectral_norm import SpectralNorm as SpectralNorm
    from wnconvert.schemes.unit_norm import UnitNorm as UnitNorm
    from wnconvert.schemes.weight_norm import WeightNorm as WeightNorm
    from wnconvert.schemes.weight_standardization import WeightStandardization as WeightStandardization
    from wnconvert.selection import Selection as Selection, WeightedOp as WeightedOp
    from wnconvert.tracing.tracing import trace as trace
    from wnconvert.training.centering import (
        add_mean_only_batch_norm as add_mean_only_batch_norm,
        fold_mean_only_batch_norm as fold_mean_only_batch_norm,
    )
    from wnconvert.training.groups import parameter_groups as parameter_groups
    from wnconvert.training.initialization.initializing import initialize as initialize
    from wnconvert.training.initialization.preactivations import (
        Initialization as Initialization,
        Initialized as Initialized,
    )
    from wnconvert.training.monitor.callbacks import MonitorCallback as MonitorCallback
    from wnconvert.training.monitor.measuring import Record as Record
    from wnconvert.training.monitor.monitoring import Monitor as Monitor
    from wnconvert.training.projecting import Projection as Projection, project_ as project_
    from wnconvert.weighted_op import WeightedOpRule as WeightedOpRule, register_weighted_op as register_weighted_op

#: where the public names are, said once more for type checkers above
_NAMES_IN = {
    "api": ("Conversion", "ConvertedProgram", "apply", "find_weighted_ops", "fold", "fuse"),
    "deploying.checking": ("check",),
    "deploying.exporting": ("Export", "export"),
    "errors": (
        "CheckpointError",
        "CopyError",
        "IncompleteError",
        "KindError",
        "NothingToConvertError",
        "OptionError",
        "OutputError",
        "TracingError",
        "UnknownNameError",
        "UnsafePickleError",
        "DeviceError",
        "VerificationError",
        "WnconvertError",
        "WnconvertWarning",
    ),
    "modules.caching": ("cached",),
    "mean_only_batch_norm": ("MeanOnlyBatchNorm",),
    "passes.apply": ("ApplyPass",),
    "passes.fold": ("FoldPass",),
    "passes.fuse": ("FusePass",),
    "reasons": ("Reason", "Why"),
    "report": ("Converted", "Finding", "Fused", "Measured", "Report", "Skipped"),
    "scheme": ("SCHEMES", "Scheme", "WeightSpec", "register"),
    "schemes.centered_weight_norm": ("CenteredWeightNorm",),
    "schemes.magnitude_preserving": ("MagnitudePreserving",),
    "schemes.network_norm": ("NetworkNorm",),
    "schemes.scaled_weight_standardization": ("ScaledWeightStandardization",),
    "schemes.sigma_reparam": ("SigmaReparam",),
    "schemes.spectral_norm": ("SpectralNorm",),
    "schemes.unit_norm": ("UnitNorm",),
    "schemes.weight_norm": ("WeightNorm",),
    "schemes.weight_standardization": ("WeightStandardization",),
    "selection": ("Selection", "WeightedOp"),
    "tracing.tracing": ("trace",),
    "training.centering": ("add_mean_only_batch_norm", "fold_mean_only_batch_norm"),
    "training.groups": ("parameter_groups",),
    "training.initialization.initializing": ("initialize",),
    "training.initialization.preactivations": ("Initialization", "Initialized"),
    "training.monitor.callbacks": ("MonitorCallback",),
    "training.monitor.measuring": ("Record",),
    "training.monitor.monitoring": ("Monitor",),
    "training.projecting": ("Projection", "project_"),
    "weighted_op": ("WeightedOpRule", "register_weighted_op"),
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names}

__all__ = sorted(_MODULE_OF)


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
