"""The numbers of the weights in a file, and in two, whatever their kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wnconvert.errors import OptionError
from wnconvert_cli import onnx_models
from wnconvert_cli.streams import STREAM

if TYPE_CHECKING:
    from wnconvert.checkpoint import Checkpoint
    from wnconvert.checkpoint.comparing.effective import Effective
    from wnconvert.checkpoint.measuring.against import Differences
    from wnconvert.checkpoint.measuring.statistics import WeightStatistics


@contextmanager
def tensors_of(path: Path, checkpoint: Checkpoint | None, *, trust: bool) -> Iterator[Sequence[Effective]]:
    """Give what a file makes a model compute with; of an ONNX model, its weights.

    Args:
        path: the file or folder.
        checkpoint: what it holds, if it was loaded already.
        trust: whether its code may run.
    """
    from wnconvert.checkpoint import Reading, load
    from wnconvert.checkpoint.comparing.effective import effective

    if onnx_models.is_one(path):
        with onnx_models.effective(path) as found:
            yield found
        return
    if checkpoint is None:
        checkpoint = load(path, trust=trust, modules="module" if trust else "state_dict")
    yield effective(checkpoint, Reading())


def measured(path: Path, checkpoint: Checkpoint | None, *, trust: bool) -> list[WeightStatistics]:
    """Return the numbers of each weight in a file, see `tensors_of`."""
    from wnconvert.checkpoint.measuring.statistics import measure_all

    with tensors_of(path, checkpoint, trust=trust) as tensors:
        return [*measure_all(tensors)]


def compared(path: Path, checkpoint: Checkpoint | None, other: Path, *, trust: bool) -> Differences:
    """Return how a file differs from another, see `tensors_of`; where one is an ONNX model, the weights count alone."""
    from wnconvert.checkpoint.measuring.against import differences

    with tensors_of(path, checkpoint, trust=trust) as own, tensors_of(other, None, trust=trust) as others:
        if onnx_models.is_one(path) or onnx_models.is_one(other):
            own, others = ([each for each in side if each.is_weight] for side in (own, others))
        return differences(own, others)


def require_other(other: Path | None) -> None:
    """Check that there is a file to compare with.

    Raises:
        OptionError: it would come from standard input.
        CheckpointError: there is none.
    """
    from wnconvert.checkpoint.storage.opened import require_file

    if other == STREAM:
        raise OptionError("--against is '-', but it is read once for each input; give a file")
    if other is not None:
        require_file(other)
