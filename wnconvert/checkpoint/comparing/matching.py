"""Which state dict of one file belongs to which of another: by place, and by names where the files are laid out apart.

A file of a GAN holds several models, and these may have the same names: all of HiFi-GAN's ``mpd`` begins with
``discriminators.0``, and so does its ``msd``. What belongs together is what has names in common, whatever the layout of
the weights; among what has, the same place counts first, then the most names, the most equal shapes, and the longest
end of the path, in that order. A state dict that has a few names in common with another's true partner is left alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from wnconvert.checkpoint.content.keys import part_groups
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.content.shapes import Shapes
from wnconvert.checkpoint.content.tree import StateDict
from wnconvert.checkpoint.layout import find_groups

#: a state dict that has less than this share of the names that the best one has in common with another is no partner.
_SHARE = 0.5


@dataclass(frozen=True)
class Outline:
    """A state dict as others are compared with it.

    Attributes:
        state_dict: the state dict.
        parts: the keys of each weight that is in parts, by its name; by default what layouts and schemes find.
    """

    state_dict: StateDict
    parts: Mapping[str, Iterable[str]] | None = None

    @cached_property
    def shapes(self) -> Shapes:
        """The shapes of what a model computes with, by name without wrappers: weights in parts under their own."""
        tensors = self.state_dict.tensors
        parts = self._found() if self.parts is None else self.parts
        own = {stem: [tuple(tensors[key].shape) for key in keys] for stem, keys in parts.items()}
        held = {key for keys in parts.values() for key in keys}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in held}
        shapes |= {stem: max(each, key=_size) for stem, each in own.items()}
        return {unwrapped(name): shape for name, shape in shapes.items()}

    def _found(self) -> dict[str, list[str]]:
        tensors = self.state_dict.tensors
        found = {group.stem: list(group.keys.values()) for group in part_groups(tensors)}
        return found | {group.stem: list(group.keys.values()) for group in find_groups(tensors)}


def partners(own: Sequence[Outline], others: Sequence[Outline]) -> list[list[Outline]]:
    """Return to which of the others each state dict belongs: to none, to one, or to several that fit equally well.

    Several of one file may belong to the same of the other: a model and its moving average, say.

    Args:
        own: the state dicts of the one file.
        others: those of the other.
    """
    if len(own) == len(others) == 1:  # names need not tell
        return [list(others)]
    common = [[_common(each, other) for other in others] for each in own]
    most = [max((row[column] for row in common), default=0) for column in range(len(others))]
    return [
        _best(
            each, [(count, other) for count, best, other in zip(row, most, others, strict=True) if _fits(count, best)]
        )
        for each, row in zip(own, common, strict=True)
    ]


def _fits(count: int, best: int) -> bool:
    return count > 0 and count >= _SHARE * best


def _best(own: Outline, found: Sequence[tuple[int, Outline]]) -> list[Outline]:
    most = max((count for count, _ in found), default=0)
    for count, other in found:
        if other.state_dict.path == own.state_dict.path and _fits(count, most):
            return [other]
    ranks = [(count, _alike(own, other), _end(own.state_dict.path, other.state_dict.path)) for count, other in found]
    return [other for rank, (_, other) in zip(ranks, found, strict=True) if rank == max(ranks)]


def _common(own: Outline, other: Outline) -> int:
    """Return the number of names that two state dicts have in common."""
    return len(own.shapes.keys() & other.shapes.keys())


def _alike(own: Outline, other: Outline) -> int:
    """Return the number of names under which two state dicts have tensors of the same shape."""
    return len(own.shapes.items() & other.shapes.items())


def _end(own: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Return how many of the last keys of two paths are the same."""
    pairs = zip(reversed(own), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _size(shape: Sequence[int]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size
