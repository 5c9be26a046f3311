"""How much work a file may make, by its size.

A few bytes can stand for terabytes: compressed records, tensors that repeat one element, lists that hold one another.
Time and memory are bounded by a multiple of the size of the file, and by a constant for small files; what takes more is
refused before the work is done. Needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from wnconvert.errors import CheckpointError

#: what is inflated, copied, or claimed by tensors, in bytes: so many times the size of the file, or at least so much.
RATIO, LEAST = 16, 1 << 26
#: steps of a pickle: one for each byte of the file, or at least so many.
STEPS = 1 << 20
#: a tensor has no more dims than this.
DIMS = 64
#: names of classes, and of dtypes, are no longer.
NAME = 1000


def most_bytes(size: int) -> int:
    """Return how many bytes may be made of a file of ``size`` bytes."""
    return max(LEAST, RATIO * size)


class Budget:
    """What is left of the work that a file may make.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, path.stat().st_size
        self.steps = max(STEPS, self._size)
        self.bytes = most_bytes(self._size)

    def step(self, count: int) -> None:
        """Take so many steps, each of which looks at one object.

        Raises:
            CheckpointError: there are not as many left.
        """
        self.steps -= count
        if self.steps < 0:
            raise self._used_up()

    def copy(self, count: int) -> None:
        """Take so many bytes.

        Raises:
            CheckpointError: there are not as many left.
        """
        self.bytes -= count
        if self.bytes < 0:
            raise self._used_up()

    def _used_up(self) -> CheckpointError:
        return CheckpointError(f"{str(self._path)!r} makes far more work than its {self._size} bytes allow")
