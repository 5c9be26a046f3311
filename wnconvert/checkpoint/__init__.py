"""The conversions on checkpoint files: state dicts by key, without the model's code.

checkpoint = load("model.pt")
conversion = apply(checkpoint, "weight_norm")
save(conversion.checkpoint, "model.weight_norm.pt", source="model.pt")
"""

from wnconvert.checkpoint.convert import Conversion, apply, fold, summary
from wnconvert.checkpoint.files import check_output, load, recognise, save
from wnconvert.checkpoint.format import FORMATS, Checkpoint, Format
from wnconvert.checkpoint.inspection import StateDictSummary, inspect
from wnconvert.checkpoint.tree import StateDict, bits_equal, difference, find_state_dicts
from wnconvert.checkpoint.verify import verify_apply, verify_content

__all__ = [
    "FORMATS",
    "Checkpoint",
    "Conversion",
    "Format",
    "StateDict",
    "StateDictSummary",
    "apply",
    "bits_equal",
    "check_output",
    "difference",
    "find_state_dicts",
    "fold",
    "inspect",
    "load",
    "recognise",
    "save",
    "summary",
    "verify_apply",
    "verify_content",
]
