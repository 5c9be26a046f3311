"""The conversions on checkpoint files: state dicts by key, without the model's code.

checkpoint = load("model.pt")
conversion = apply(checkpoint, "weight_norm")
save(conversion.checkpoint, "model.weight_norm.pt", source="model.pt")

A file says what was done to it, so another process undoes or repeats it; a reference does the same for other files:

plain = fold(load("vocoder.pt")).checkpoint           # records what the weights were
again = apply(plain).checkpoint                       # exactly these weights, schemes, dims and keys
other = apply_like(load("finetuned.pt"), plain)       # the same on another file

New tensors are deferred: they are computed when `save` writes them, or whenever they are used.
The public names are loaded on first use, so that what needs no torch does not import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wnconvert.checkpoint.adapters.merging import fold_adapter as fold_adapter, migrate_adapter as migrate_adapter
    from wnconvert.checkpoint.comparing.comparison import Comparison as Comparison, verify as verify
    from wnconvert.checkpoint.content.difference import bits_equal as bits_equal, difference as difference
    from wnconvert.checkpoint.content.tree import StateDict as StateDict, find_state_dicts as find_state_dicts
    from wnconvert.checkpoint.conversions.apply import apply as apply
    from wnconvert.checkpoint.conversions.conversion import Conversion as Conversion, summary as summary
    from wnconvert.checkpoint.conversions.extraction import alone as alone
    from wnconvert.checkpoint.conversions.fold import fold as fold
    from wnconvert.checkpoint.conversions.loaders import LoadsInto as LoadsInto
    from wnconvert.checkpoint.conversions.migration import migrate as migrate
    from wnconvert.checkpoint.conversions.proof import verify_apply as verify_apply, verify_unfold as verify_unfold
    from wnconvert.checkpoint.conversions.reference import apply_like as apply_like
    from wnconvert.checkpoint.conversions.treatment import Treatment as Treatment
    from wnconvert.checkpoint.conversions.unfold import unfold as unfold
    from wnconvert.checkpoint.files import (
        load as load,
        recognise as recognise,
        save as save,
        verify_content as verify_content,
    )
    from wnconvert.checkpoint.format import FORMATS as FORMATS, Checkpoint as Checkpoint, Format as Format
    from wnconvert.checkpoint.inspecting.inspection import count_layouts as count_layouts, inspect as inspect
    from wnconvert.checkpoint.inspecting.summary import StateDictSummary as StateDictSummary
    from wnconvert.checkpoint.layout import (
        LAYOUTS as LAYOUTS,
        Group as Group,
        Layout as Layout,
        Listing as Listing,
        Migrated as Migrated,
        find_groups as find_groups,
        preset as preset,
    )
    from wnconvert.checkpoint.measuring.statistics import WeightStatistics as WeightStatistics, statistics as statistics
    from wnconvert.checkpoint.placing import check_output as check_output
    from wnconvert.checkpoint.storage.opened import Opened as Opened
    from wnconvert.checkpoint.weights.reading import Reading as Reading
    from wnconvert.loading.into import load_into as load_into
    from wnconvert.loading.report import Loaded as Loaded, LoadReport as LoadReport

#: where the public names are, said once more for type checkers above
_NAMES_IN = {
    "adapters.merging": ("fold_adapter", "migrate_adapter"),
    "comparing.comparison": ("Comparison", "verify"),
    "conversions.proof": ("verify_apply", "verify_unfold"),
    "content.difference": ("bits_equal", "difference"),
    "content.tree": ("StateDict", "find_state_dicts"),
    "conversions.apply": ("apply",),
    "conversions.conversion": ("Conversion", "summary"),
    "conversions.extraction": ("alone",),
    "conversions.fold": ("fold",),
    "conversions.loaders": ("LoadsInto",),
    "conversions.migration": ("migrate",),
    "conversions.reference": ("apply_like",),
    "conversions.treatment": ("Treatment",),
    "conversions.unfold": ("unfold",),
    "files": ("load", "recognise", "save", "verify_content"),
    "format": ("FORMATS", "Checkpoint", "Format"),
    "inspecting.inspection": ("count_layouts", "inspect"),
    "inspecting.summary": ("StateDictSummary",),
    "layout": ("LAYOUTS", "Group", "Layout", "Listing", "Migrated", "find_groups", "preset"),
    "measuring.statistics": ("WeightStatistics", "statistics"),
    "placing": ("check_output",),
    "storage.opened": ("Opened",),
    "weights.reading": ("Reading",),
    # above this package, for they are about files and live models; they have their names here
    "wnconvert.loading.into": ("load_into",),
    "wnconvert.loading.report": ("LoadReport", "Loaded"),
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'wnconvert.checkpoint' has no attribute {name!r}")
    module = _MODULE_OF[name]
    module = module if module.startswith("wnconvert.") else f"wnconvert.checkpoint.{module}"
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
