"""Two ONNX files compared by what they make a model compute with: computed weights count by their values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wnconvert.checkpoint.storage.opened import require_file
from wnconvert.onnx_files.confined import confined
from wnconvert.onnx_files.conversion import files_of
from wnconvert.onnx_files.needed import require_extra

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pair:
    """One tensor that both files have.

    Attributes:
        name: its name.
        computed: whether either computes it.
        equal: whether dtype, shape and bits are the same.
        max_abs: largest difference of an element.
        max_rel: that, as a share of the largest magnitude in the first.
        problem: why it cannot be compared, or None.
    """

    name: str
    computed: tuple[bool, bool]
    equal: bool
    max_abs: float = 0.0
    max_rel: float = 0.0
    problem: str | None = None


def compare(first: Path, second: Path) -> tuple[list[Pair], list[str], list[str]]:
    """Return what both files have, and the names of what only the one and only the other has.

    Raises:
        CheckpointError: one cannot be read.
    """
    require_extra()
    for path in (first, second):
        require_file(path)
    found: Any = confined(f"{__name__}:_compare", [*files_of(first), *files_of(second)], first, second)
    return found


def _compare(first: Path, second: Path) -> tuple[list[Pair], list[str], list[str]]:
    (ours, own), (theirs, other) = map(_tensors, (first, second))
    pairs = [
        _paired(name, (name in own, name in other), ours[name].numpy(), theirs[name].numpy())
        for name in ours
        if name in theirs
    ]
    return pairs, [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]


def _tensors(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return what a file stores once it is folded, and the names of what it computed."""
    from wnconvert.onnx_files.folding import FoldWeightsPass
    from wnconvert.onnx_files.reading import read

    file = read(path)
    result: Any = FoldWeightsPass()(file.model)
    stored = {
        name: value.const_value
        for graph in file.graphs
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }
    return stored, {value.name for value in result.values}


def _paired(name: str, computed: tuple[bool, bool], one: np.ndarray, other: np.ndarray) -> Pair:
    import numpy as np

    if one.shape != other.shape:
        return Pair(
            name, computed, equal=False, problem=f"has shape {one.shape} in one, and {other.shape} in the other"
        )
    if one.dtype == other.dtype and one.tobytes() == other.tobytes():
        return Pair(name, computed, equal=True)
    if one.dtype == object or other.dtype == object:
        return Pair(name, computed, equal=False, problem="holds texts, and others")
    a, b = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        away = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    far = float(np.nan_to_num(away, nan=np.inf).max(initial=0.0))
    most = float(np.abs(a).max(initial=0.0, where=np.isfinite(a)))
    return Pair(name, computed, equal=False, max_abs=far, max_rel=far / most if most else float(far and np.inf))
