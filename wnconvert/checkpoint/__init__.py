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
    from wnconvert.checkpoint.adapters.merging import fold_adapter, migrate_adapter
    from wnconvert.checkpoint.comparing.comparison import Comparison, verify
    from wnconvert.checkpoint.content.difference import bits_equal, difference
    from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
    from wnconvert.checkpoint.conversions.apply import apply
    from wnconvert.checkpoint.conversions.conversion import Conversion, summary
    from wnconvert.checkpoint.conversions.fold import fold
    from wnconvert.checkpoint.conversions.migration import migrate
    from wnconvert.checkpoint.conversions.proof import verify_apply, verify_unfold
    from wnconvert.checkpoint.conversions.reference import apply_like
    from wnconvert.checkpoint.conversions.treatment import Treatment
    from wnconvert.checkpoint.conversions.unfold import unfold
    from wnconvert.checkpoint.files import check_output, load, recognise, save, verify_content
    from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format
    from wnconvert.checkpoint.inspecting.inspection import inspect
    from wnconvert.checkpoint.inspecting.summary import StateDictSummary
    from wnconvert.checkpoint.layout import LAYOUTS, Group, Layout, Listing, Migrated, find_groups, preset
    from wnconvert.checkpoint.storage.opened import Opened
    from wnconvert.checkpoint.weights.reading import Reading

_MODULE_OF = {
    "Checkpoint": "format",
    "Comparison": "comparing.comparison",
    "Conversion": "conversions.conversion",
    "FORMATS": "format",
    "Format": "format",
    "Group": "layout",
    "LAYOUTS": "layout",
    "Layout": "layout",
    "Listing": "layout",
    "Migrated": "layout",
    "Opened": "storage.opened",
    "Reading": "weights.reading",
    "StateDict": "content.tree",
    "StateDictSummary": "inspecting.summary",
    "Treatment": "conversions.treatment",
    "apply": "conversions.apply",
    "apply_like": "conversions.reference",
    "bits_equal": "content.difference",
    "check_output": "files",
    "difference": "content.difference",
    "find_groups": "layout",
    "find_state_dicts": "content.tree",
    "fold": "conversions.fold",
    "fold_adapter": "adapters.merging",
    "inspect": "inspecting.inspection",
    "load": "files",
    "migrate": "conversions.migration",
    "migrate_adapter": "adapters.merging",
    "preset": "layout",
    "recognise": "files",
    "save": "files",
    "summary": "conversions.conversion",
    "unfold": "conversions.unfold",
    "verify": "comparing.comparison",
    "verify_apply": "conversions.proof",
    "verify_content": "files",
    "verify_unfold": "conversions.proof",
}

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "Checkpoint",
    "Comparison",
    "Conversion",
    "Format",
    "Group",
    "Layout",
    "Listing",
    "Migrated",
    "Opened",
    "Reading",
    "StateDict",
    "StateDictSummary",
    "Treatment",
    "apply",
    "apply_like",
    "bits_equal",
    "check_output",
    "difference",
    "find_groups",
    "find_state_dicts",
    "fold",
    "fold_adapter",
    "inspect",
    "load",
    "migrate",
    "migrate_adapter",
    "preset",
    "recognise",
    "save",
    "summary",
    "unfold",
    "verify",
    "verify_apply",
    "verify_content",
    "verify_unfold",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'wnconvert.checkpoint' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wnconvert.checkpoint.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
