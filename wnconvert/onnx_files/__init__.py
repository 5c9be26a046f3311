"""ONNX files: their computed weights folded, without torch.

outcome = fold_file("model.onnx", "model.folded.onnx")

model, report = fold(onnx_ir.load("model.onnx"))              # in memory
FoldWeightsPass()(model)                                      # as a pass of onnx-ir, in place

The names are loaded on first use, for what they need is in the extra ``[onnx]``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wnconvert.onnx_files.conversion import Outcome as Outcome, fold as fold, fold_file as fold_file
    from wnconvert.onnx_files.folding import FoldResult as FoldResult, FoldWeightsPass as FoldWeightsPass

_MODULE_OF = {
    "FoldResult": "folding",
    "FoldWeightsPass": "folding",
    "Outcome": "conversion",
    "fold": "conversion",
    "fold_file": "conversion",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
