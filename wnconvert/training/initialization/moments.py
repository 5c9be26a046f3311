"""Mean and variance of what an op gives, unit by unit, gathered from several calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and spread of the values of each unit, in float64.

    Attributes:
        count: how many values each unit has.
        mean: their mean, of shape (units,).
        spread: the sum of their squared distances from it.
    """

    count: int
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Return those of values of shape (count, units)."""
        values = values.double()
        mean = values.mean(0) if len(values) else values.new_zeros(values.shape[1:])
        return cls(len(values), mean, (values - mean).square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        """Return those of both together (Chan et al. 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / max(count, 1)
        spread = self.spread + other.spread + apart.square() * (self.count * share)
        return Moments(count, self.mean + apart * share, spread)

    @property
    def std(self) -> Tensor:
        """Their standard deviation: the root of the mean squared distance."""
        return (self.spread / max(self.count, 1)).sqrt()

    @property
    def finite(self) -> bool:
        """Whether no value was infinite or NaN."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.spread).all())


def rows(values: Tensor, channel: int, mask: Tensor | None = None) -> Tensor:
    """Return values as (positions, units), those of some positions alone where there is a mask.

    Args:
        values: of any shape.
        channel: the dim that indexes units.
        mask: bool, of the shape of ``values`` without that dim.
    """
    values = values.movedim(channel, -1)
    return values.reshape(-1, values.shape[-1]) if mask is None else values[mask]
