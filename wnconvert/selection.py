"""Which weights a conversion is asked to touch, and which of their dims it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Literal, TypeAlias

import torch

from wnconvert.errors import OptionError
from wnconvert.reasons import Reason, Why

#: A kept dim: as torch's weight_norm means it (None and -1 are the whole tensor), or the output-channel dim.
Dim: TypeAlias = int | Literal["output"] | None
#: the dtypes of weights that schemes can compute with
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class WeightedOp:
    """One weight, with the ops that read it.

    Attributes:
        fqn: dotted name of the weight, ``"conv1.weight"``; the first one where the weight is tied.
        ops: names of the weighted ops that read it, ``("conv2d",)``; empty where only a file was seen.
        shape: the weight's shape.
        dtype: the weight's dtype.
        output_dims: the dims that index output channels, or None where no dim of the weight does, or none is known.
        aliases: the other dotted names of a tied weight.
    """

    fqn: str
    ops: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    output_dims: tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """The user's choice of weights.

    Attributes:
        include: globs over dotted names; one must match the weight's name or the name of its module.
        exclude: globs of the same kind; none may match.
        ops: names of weighted ops; all of them where empty.
        min_size: the least number of elements.
        predicate: a last word, called with what the other tests let through.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    min_size: int = 0
    predicate: Callable[[WeightedOp], bool] | None = None

    def reason_against(self, weight: WeightedOp) -> Reason | None:
        """Return why ``weight`` is not chosen, or None if it is."""
        if against := self.reason_against_names((weight.fqn, *weight.aliases)):
            return against
        if self.ops and weight.ops and not set(self.ops) & set(weight.ops):
            return Why.NOT_CHOSEN(ops=", ".join(self.ops))
        if self.min_size and prod(weight.shape) < self.min_size:
            return Why.NOT_CHOSEN(size=prod(weight.shape), least=self.min_size)
        if self.predicate is not None and not self.predicate(weight):
            return Why.NOT_CHOSEN(chooser="the predicate")
        return None

    def reason_against_names(self, names: Iterable[str]) -> Reason | None:
        """Return why a weight of these names is not chosen, whatever else it is; None if nothing in them says so."""
        if self.include != ("*",) and not _any_match(names, self.include):
            return Why.NOT_CHOSEN(include=", ".join(map(repr, self.include)))
        if self.exclude and _any_match(names, self.exclude):
            return Why.NOT_CHOSEN(exclude=", ".join(map(repr, self.exclude)))
        return None


def kept_dims(dim: Dim, weight: WeightedOp) -> tuple[int, ...]:
    """Return the kept dims that ``dim`` means for ``weight``; ``()`` is the whole tensor.

    Raises:
        OptionError: the weight has no such dim.
    """
    ndim = len(weight.shape)
    if dim is None or dim == -1:
        return ()
    if dim == "output":
        if weight.output_dims is None:
            raise OptionError(f"no dim of {weight.fqn!r} is its output dim; give a number")
        return weight.output_dims
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise OptionError(f"dim is {dim!r}; it must be a number, None or 'output'")
    if ndim == 0:
        return ()
    if not 0 <= dim < ndim:
        raise OptionError(f"{weight.fqn!r} of shape {weight.shape} has no dim {dim} (-1 means the whole tensor)")
    return (dim,)


def _any_match(names: Iterable[str], globs: tuple[str, ...]) -> bool:
    """Whether a name of a weight, or of a module that holds it, matches one of the globs."""
    held = {*names}
    held |= {name.rpartition(".")[0] for name in held}
    return any(fnmatchcase(name, glob) for name in held for glob in globs)
