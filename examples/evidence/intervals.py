"""Confidence intervals of means of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

#: 97.5 % quantiles of Student's t with so many degrees of freedom, from 1 on
QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def of_mean(values: Sequence[float]) -> Interval:
    """Return Student's 95 % interval of the mean, ``mean(x) ± t * stdev(x) / sqrt(n)``.

    Raises:
        ValueError: fewer than two numbers, or more than ten.
    """
    count = len(values)
    if not 2 <= count <= len(QUANTILES) + 1:
        raise ValueError(f"{count} numbers; an interval takes 2 to {len(QUANTILES) + 1}")
    half = QUANTILES[count - 2] * stdev(values) / math.sqrt(count)
    return Interval(fmean(values), fmean(values) - half, fmean(values) + half)
