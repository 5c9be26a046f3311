"""What ops with composed weights give before an activation: its statistics, and the parts and biases that set them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, TypeAlias

import torch
from torch import Tensor

from wnconvert.errors import OptionError
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.training.composed import Composed
from wnconvert.training.initialization.moments import Moments, rows
from wnconvert.training.initialization.watching import Call

#: which positions count: a batch and the shape of an output without its units -> booleans
Mask: TypeAlias = Callable[[Any, tuple[int, ...]], Tensor]

#: how far a weight may be from what its parts compose to, as a share of its largest element: half precision, not more
_ROUNDING = 2.0**-6
#: a standard deviation of so many roundings of the mean is none
_NOISE = 16


@dataclass(frozen=True)
class Initialized:
    """A weight whose pre-activations were given mean 0 and variance 1.

    Attributes:
        fqn: its dotted name.
        mean: the mean of each unit before, of shape (units,).
        std: its standard deviation before.
        biases: dotted names of the biases that were set; without any the mean stays.
        dead: the units without variance, which were left alone.
        off_mean: the largest mean of a unit that is left, where it has a bias.
        off_variance: the largest distance of a variance from 1 that is left.
        calls: how often it is read, in all batches together.
        reached: whether both are as small as its dtype allows; what is read several times may miss it.
    """

    fqn: str
    mean: Tensor
    std: Tensor
    biases: tuple[str, ...]
    dead: tuple[int, ...]
    off_mean: float
    off_variance: float
    calls: int
    reached: bool

    def __str__(self) -> str:
        text = f"{self.fqn}: mean {_range(self.mean)}, std {_range(self.std)} before"
        if not self.biases:
            text += "; no bias, so the mean stays"
        if self.dead:
            text += f"; left alone without variance: units {', '.join(map(str, self.dead))}"
        if not self.reached:
            text += f"; still off by {self.off_mean:.2g} and {self.off_variance:.2g}, read {self.calls} times"
        return text


@dataclass(frozen=True)
class Initialization:
    """What `wnconvert.initialize` did.

    Attributes:
        initialized: in the order in which they run.
        skipped: the composed weights that were left alone, and why.
    """

    initialized: tuple[Initialized, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.initialized)} initialized, {len(self.skipped)} skipped"]
        lines += [f"  {entry}" for entry in self.initialized]
        lines += [f"  {entry.fqn}: skipped, {entry.reason}" for entry in self.skipped]
        return "\n".join(lines)


@dataclass
class Statistics:
    """The statistics of one weight, apart for each bias that is added to what it gives.

    Attributes:
        groups: moments by the id of the bias, or None where there is none that can be set.
        calls: how many calls they are of.
        eps: the relative precision of what the calls gave.
    """

    groups: dict[int | None, Moments] = field(default_factory=dict)
    calls: int = 0
    eps: float = 0.0

    def add(self, bias: int | None, moments: Moments, output: Tensor) -> None:
        """Take in one call."""
        known = self.groups.get(bias)
        self.groups[bias] = moments if known is None else known + moments
        self.calls += 1
        self.eps = max(self.eps, torch.finfo(output.dtype).eps)

    @property
    def total(self) -> Moments:
        """The moments of all calls."""
        return reduce(add, self.groups.values())

    @property
    def count(self) -> int:
        """How many values each unit has."""
        return sum(each.count for each in self.groups.values())

    @property
    def variance(self) -> Tensor:
        """The variance around the mean that each group has, which its own bias moves."""
        return sum((each.spread for each in self.groups.values()), torch.tensor(0.0)) / self.count

    @property
    def dead(self) -> Tensor:
        """Which units have no variance but that of rounding."""
        size = torch.stack([each.mean.abs() for each in self.groups.values()]).amax(0)
        return self.variance.sqrt() <= _NOISE * self.eps * size

    @property
    def factor(self) -> Tensor:
        """What gives each unit variance 1; 1 where it is dead."""
        return torch.where(self.dead, torch.ones_like(self.variance), self.variance.rsqrt())


def reason_against(weight: Composed, call: Call) -> Reason | None:
    """Return why the units of a call cannot be scaled by the parts of its weight, or None."""
    if call.dim is None:
        return Why.NO_SCALE(groups=call.groups)
    units = weight.spec.shape[call.dim]
    made = weight.scheme.scaled(weight.parts, _along(call.dim, weight, torch.ones(units)).to(weight.direction))
    if not made:
        return Why.NO_SCALE(scheme=weight.scheme.name)
    for part, value in made.items():
        old = weight.parts[part]
        if value.numel() != old.numel():
            return Why.NO_SCALE(part=part, shape=tuple(old.shape), units=units)
        if not old.requires_grad:
            return Why.FROZEN(part=part)
    composed = weight.scheme.compose(weight.parts, weight.spec).double()
    distance, size = (call.value.double() - composed).abs().amax(), composed.abs().amax()
    return Why.READ_OTHERWISE(what="its parts") if distance > _ROUNDING * size else None


def moments_of(call: Call, batch: Any, mask: Mask | None) -> Moments:
    """Return the moments of what a call gives.

    Raises:
        OptionError: the mask does not fit.
    """
    output = call.output
    chosen = None
    if mask is not None:
        shape = tuple(output.movedim(call.channel, -1).shape[:-1])
        chosen = mask(batch, shape)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool:
            raise OptionError(f"mask gives {chosen!r} for positions {shape}; it must be a tensor of booleans")
        try:
            chosen = chosen.to(output.device).expand(shape)
        except RuntimeError:
            wrong = tuple(chosen.shape)
            raise OptionError(f"mask gives shape {wrong}, which does not broadcast to positions {shape}") from None
    return Moments.of(rows(output, call.channel, chosen))


def scale_(weight: Composed, dim: int, factor: Tensor) -> list[Tensor]:
    """Multiply a weight by a factor for each index of a dim, by its parts, and return those that changed."""
    parts = {part: weight.parts[part].double() for part in weight.scheme.parts}
    changed = []
    for part, value in weight.scheme.scaled(parts, _along(dim, weight, factor)).items():
        weight.parts[part].copy_(value.reshape(weight.parts[part].shape))
        changed.append(weight.parts[part])
    return changed


def move_(bias: Tensor, moments: Moments, factor: Tensor, dead: Tensor) -> None:
    """Set the bias that gives mean 0 where the weight was scaled; ``moments`` are those with the old one."""
    bias.copy_(torch.where(dead, bias.double(), (bias.double() - moments.mean) * factor))


def _along(dim: int, weight: Composed, factor: Tensor) -> Tensor:
    return factor.reshape([-1 if each == dim else 1 for each in range(len(weight.spec.shape))])


def _range(values: Tensor) -> str:
    low, high = values.min().item(), values.max().item()
    return f"{low:.3g}" if len(values) == 1 else f"{low:.3g} to {high:.3g}"
