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
    from wnconvert.checkpoint.adapters import fold_adapter, migrate_adapter
    from wnconvert.checkpoint.comparison import Comparison, verify
    from wnconvert.checkpoint.convert import Conversion, apply, fold, summary, unfold
    from wnconvert.checkpoint.files import check_output, load, recognise, save
    from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format
    from wnconvert.checkpoint.inspection import inspect
    from wnconvert.checkpoint.layout import LAYOUTS, Group, Layout, Reading, find_groups, preset
    from wnconvert.checkpoint.migration import migrate
    from wnconvert.checkpoint.overview import StateDictSummary
    from wnconvert.checkpoint.proof import verify_apply, verify_content, verify_unfold
    from wnconvert.checkpoint.reference import apply_like
    from wnconvert.checkpoint.treatment import Treatment
    from wnconvert.checkpoint.tree import StateDict, bits_equal, difference, find_state_dicts

_MODULE_OF = {
    "Comparison": "comparison",
    "Group": "layout",
    "LAYOUTS": "layout",
    "Layout": "layout",
    "Reading": "layout",
    "Treatment": "treatment",
    "apply_like": "reference",
    "find_groups": "layout",
    "fold_adapter": "adapters",
    "migrate": "migration",
    "migrate_adapter": "adapters",
    "preset": "layout",
    "FORMATS": "format",
    "Checkpoint": "format",
    "Conversion": "convert",
    "Format": "format",
    "StateDict": "tree",
    "StateDictSummary": "overview",
    "apply": "convert",
    "bits_equal": "tree",
    "check_output": "files",
    "difference": "tree",
    "find_state_dicts": "tree",
    "fold": "convert",
    "inspect": "inspection",
    "load": "files",
    "recognise": "files",
    "save": "files",
    "summary": "convert",
    "unfold": "convert",
    "verify": "comparison",
    "verify_apply": "proof",
    "verify_content": "proof",
    "verify_unfold": "proof",
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
