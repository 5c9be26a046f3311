"""What a model is exported as: which files are of the kind, what it takes, how one is written and run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

from torch import Tensor
from torch.export import ExportedProgram

from wnconvert.errors import OptionError
from wnconvert.registry import Registry

#: runs an artifact on inputs in the order of the program's signature, and returns the tensors that it gives
Run: TypeAlias = Callable[[Sequence[Any]], list[Tensor]]
#: names of dynamic dims, by name of the input and number of the dim
DimNames: TypeAlias = Mapping[str, Mapping[int, str]]


class Written(NamedTuple):
    """What is in an artifact.

    Attributes:
        weights: the names that the parameters have in it; empty where it has no names.
        counts: what there is to count, by name.
    """

    weights: tuple[str, ...]
    counts: dict[str, int]


class Target(ABC):
    """A kind of artifact.

    Attributes:
        name: its name.
        title: what it is called in texts.
        suffix: how its files end; the longest that fits counts.
        needs: the modules that it takes, which are called as what installs them.
        seeded: whether an artifact draws the random numbers that the model draws, given the same seed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    needs: ClassVar[Sequence[str]] = ()
    seeded: ClassVar[bool] = False

    def require(self) -> None:
        """Check that what it takes is there.

        Raises:
            OptionError: something is not.
        """
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            what = ", ".join(map(repr, missing))
            raise OptionError(f"{self.title} needs {what}, not installed here; pip install {' '.join(missing)}")

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path, dims: DimNames) -> Written:
        """Write a program, whose weights are plain.

        Args:
            program: what to write.
            path: the file; others may go beside it, under names that begin with its name.
            dims: what to call the dynamic dims, where the artifact has names for them.

        Returns:
            what is in the artifact.
        """

    @abstractmethod
    def load(self, path: Path, program: ExportedProgram) -> Run:
        """Return what runs the artifact, as whoever deploys it will run it."""


TARGETS: Registry[type[Target]] = Registry("target", "wnconvert.deploying.targets", "wnconvert.targets", Target)
register = TARGETS.register


def target_of(output: Path) -> Target:
    """Return the kind of artifact that a file of that name is.

    Raises:
        OptionError: there is none.
    """
    suffixes = {TARGETS.get(name).suffix: TARGETS.get(name) for name in TARGETS}
    fitting = [suffix for suffix in suffixes if output.name.lower().endswith(suffix)]
    if not fitting:
        raise OptionError(f"output {str(output)!r} says by no suffix what to write; known are {', '.join(suffixes)}")
    return suffixes[max(fitting, key=len)]()
