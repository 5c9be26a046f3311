"""Numbers of each weight of a checkpoint: norms of its vectors, magnitude, spectral norm, dead and duplicate channels.

One weight at a time is composed, looked at and forgotten, so that a file of any size takes the memory of its largest
weight. The time is linear in the elements.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wnconvert.checkpoint.comparing.effective import Effective, effective
from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.weights.reading import Reading
from wnconvert.fitness import reason_against_values
from wnconvert.reasons import Reason, Why
from wnconvert.rows import DEAD, rows_of
from wnconvert.scheme import WeightSpec
from wnconvert.schemes._spectral import largest_singular_value

#: bars of a histogram
BINS = 16


@dataclass(frozen=True)
class Distribution:
    """How some numbers are distributed; those that are not finite are only counted.

    Attributes:
        count: how many there are.
        non_finite: how many of them are no numbers, or infinite.
        min: the least.
        lower: the one that a quarter of them is below.
        median: the one that half of them are below.
        upper: the one that three quarters of them are below.
        max: the largest.
        bins: how many lie in each of `BINS` equal parts of the way from the least to the largest; all in the first
            where these are one. Empty where none is finite.
    """

    count: int
    non_finite: int
    min: float | None
    lower: float | None
    median: float | None
    upper: float | None
    max: float | None
    bins: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Tensor) -> Distribution:
        """Return the distribution of all elements of a tensor."""
        every = numbers.detach().reshape(-1).to("cpu", torch.float64).numpy()
        finite = every[np.isfinite(every)]
        odd = len(every) - len(finite)
        if not len(finite):
            return cls(len(every), odd, None, None, None, None, None, ())
        low, high = float(finite.min()), float(finite.max())
        # as shares of the largest: the way between two numbers may be too long for a number
        scale = max(abs(low), abs(high)) or 1.0
        shares = finite / scale
        lower, median, upper = (float(each) * scale for each in np.quantile(shares, (0.25, 0.5, 0.75)))
        return cls(len(every), odd, low, lower, median, upper, high, _counts(shares, low / scale, high / scale))


def _counts(numbers: np.ndarray, low: float, high: float) -> tuple[int, ...]:
    if not low < high:
        return (len(numbers), *(0,) * (BINS - 1))
    places = np.minimum(((numbers - low) / (high - low) * BINS).astype(np.int64), BINS - 1)
    return tuple(np.bincount(places, minlength=BINS).tolist())


@dataclass(frozen=True)
class WeightStatistics:
    """One weight of a checkpoint, as a model computes with it. A channel is one index of its kept dims.

    Attributes:
        name: its dotted name, with the path of its state dict.
        shape: its sizes.
        dtype: its dtype, without ``torch.``.
        scheme: the scheme that composes it, several joined by ``+``; None where it is stored as it is.
        layout: how the file holds it: ``"plain"``, or the name of a layout.
        kept: the dims by which channels are told: the kept dims, or the first dim where there are none.
        problem: why there are no numbers, or None.
        norms: the norms of its channels.
        g: its magnitude, as it is stored: ``g``, ``gain``, ``gamma``, or ``s = log(g)``.
        sigma: its spectral norm: the largest singular value of the matrix whose rows are its channels; None where not
            all of it is finite.
        zero: channels of zeros.
        dead: channels whose norm is at most `wnconvert.rows.DEAD` of the median of all; those of zeros among them.
        duplicate: channels that are neither dead nor other than one before them, number for number.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scheme: str | None
    layout: str
    kept: tuple[int, ...]
    problem: str | None = None
    norms: Distribution | None = None
    g: Distribution | None = None
    sigma: float | None = None
    zero: int = 0
    dead: int = 0
    duplicate: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain data, ready for JSON."""
        return asdict(self)


def statistics(checkpoint: Checkpoint, reading: Reading | None = None) -> Iterator[WeightStatistics]:
    """Yield the numbers of each weight: of those in parts as they are composed, and of plain ones by name and rank.

    Args:
        checkpoint: what `wnconvert.checkpoint.load` gives.
        reading: how to read what the file does not say.
    """
    yield from measure_all(effective(checkpoint, reading or Reading()))


def measure_all(tensors: Sequence[Effective]) -> Iterator[WeightStatistics]:
    """Yield the numbers of each weight among some tensors, tied ones once."""
    seen: set[Hashable] = set()
    for each in tensors:
        if each.is_weight and (key := storage_key(each.tensor)) not in seen:
            seen.add(key)
            yield measure(each)


@torch.no_grad()
def measure(each: Effective) -> WeightStatistics:
    """Return the numbers of one weight."""
    weight = each.value()
    reason = each.reason or reason_against_values(weight)
    if reason is None and weight.is_meta:
        reason = Why.NO_DATA(shape=tuple(weight.shape))
    if reason is not None and reason.why not in (Why.NON_FINITE, Why.STRIDES):
        return _described(each, weight, reason)
    kept = each.kept or (0,)
    rows = rows_of(weight, WeightSpec.of(weight, kept))
    norms = _norms(rows)
    finite = norms[norms.isfinite()]
    usual = float(finite.median()) if len(finite) else 0.0
    dead = norms <= usual * DEAD
    is_finite = reason is None or reason.why is not Why.NON_FINITE
    return WeightStatistics(
        name=each.fqn,
        shape=tuple(weight.shape),
        dtype=_dtype(weight),
        scheme=each.scheme,
        layout=each.spelled,
        kept=kept,
        norms=Distribution.of(norms),
        g=None if each.magnitude is None else Distribution.of(each.magnitude),
        sigma=largest_singular_value(rows) if is_finite else None,
        zero=int((norms == 0).sum()),
        dead=int(dead.sum()),
        duplicate=_repeated(rows, ~dead & norms.isfinite()),
    )


def _described(each: Effective, weight: Tensor, reason: Reason) -> WeightStatistics:
    kept = each.kept or (0,)
    problem = str(reason)
    return WeightStatistics(
        each.fqn, tuple(weight.shape), _dtype(weight), each.scheme, each.spelled, kept, problem=problem
    )


def _dtype(weight: Tensor) -> str:
    return str(weight.dtype).removeprefix("torch.")


def _norms(rows: Tensor) -> Tensor:
    """Return the norm of each row, in float64; those whose squares overflow or vanish in float32, too."""
    norms = torch.linalg.vector_norm(rows, dim=1).double()
    odd = (norms == 0) | ~norms.isfinite()
    if bool(odd.any()):
        norms[odd] = torch.linalg.vector_norm(rows[odd].double(), dim=1)
    return norms


def _repeated(rows: Tensor, counted: Tensor) -> int:
    """Return how many of the rows that count have the numbers of one before them."""
    seen: set[bytes] = set()  # digests, for all rows together may not fit into memory
    repeated = 0
    for index in counted.nonzero().flatten().tolist():
        numbers = blake2b((rows[index] + 0.0).numpy().data, digest_size=16).digest()  # -0.0 and 0.0 are one number
        repeated += numbers in seen
        seen.add(numbers)
    return repeated
