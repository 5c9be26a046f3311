"""The numbers of the weights in a file, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wnconvert_cli import onnx_models

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint
    from wnconvert.checkpoint.measuring.statistics import WeightStatistics


def measured(path: Path, checkpoint: Checkpoint | None, *, trust: bool) -> list[WeightStatistics]:
    """Return the numbers of each weight in a file.

    Args:
        path: the file or folder.
        checkpoint: what it holds, if it was loaded already.
        trust: whether its code may run.
    """
    from wnconvert.checkpoint import load
    from wnconvert.checkpoint.measuring.statistics import measure, statistics

    if onnx_models.is_one(path):
        return [measure(each) for each in onnx_models.effective(path)]
    if checkpoint is None:
        checkpoint = load(path, trust=trust, modules="module" if trust else "state_dict")
    return [*statistics(checkpoint)]
