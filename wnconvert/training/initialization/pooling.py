"""Set the statistics of a model's pre-activations, layer after layer, over several batches at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from wnconvert.errors import OptionError, WnconvertError, described
from wnconvert.graph.copying import clone
from wnconvert.reasons import Reason, Why
from wnconvert.report import Skipped
from wnconvert.training.composed import Composed
from wnconvert.training.initialization.lockstep import Ask, in_lockstep
from wnconvert.training.initialization.moments import Moments
from wnconvert.training.initialization.preactivations import (
    Initialization,
    Initialized,
    Mask,
    Statistics,
    moments_of,
    move_,
    reason_against,
    scale_,
)
from wnconvert.training.initialization.randomness import Randomness
from wnconvert.training.initialization.watching import Call, Watch

#: rounds after which what is pooled is left as it is
_ROUNDS = 100
#: the largest mean and distance of the variance from 1 that count as reached: in half precision, and in others
_HALF, _FULL = (2.0**-5, 2.0**-5), (1e-5, 1e-4)

#: a batch, and the call of a model with it
_Run: TypeAlias = tuple[Any, Callable[[nn.Module], None]]


class _Question(NamedTuple):
    """A call that waits for its weight to be set."""

    call: Call
    bias: int | None
    moments: Moments


class Pooling:
    """Initializes a model.

    A *sweep* runs each batch once. The first one only measures. One that sets has all batches meet at each weight,
    whose statistics are then known, and go on with what it gives when it is set. A weight that a forward reads several
    times may read what it gave itself, so its statistics are *pooled* over a sweep, and it is set behind that; round by
    round, until nothing is left to do. The last sweep measures what came of it.

    Args:
        model: what is initialized; it is changed.
        weights: its composed weights.
        mask: which positions count.

    Attributes:
        changed: ids of the parameters that were set.
    """

    def __init__(self, model: nn.Module, weights: Sequence[Composed], mask: Mask | None) -> None:
        self.changed: set[int] = set()
        self._model = model
        self._weights = weights
        self._mask = mask
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._biases = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
        self._of_bias: dict[int, set[int]] = {}
        self._reasons: dict[int, Reason] = {}
        held = Counter(id(weight.parts[part]) for weight in weights for part in weight.scheme.parts)
        for index, weight in enumerate(weights):
            if any(held[id(weight.parts[part])] > 1 for part in weight.scheme.parts):  # set for one, it is for both
                self._reasons[index] = Why.READ_OTHERWISE(reader="another weight that has a part in common")
        self._others: dict[int, str] = {}
        self._dims: dict[int, int] = {}
        self._order: dict[int, None] = {}
        self._reads: list[Counter[int]] = []
        self._randomness: list[Randomness] = []
        self._pooled: set[int] = set()
        self._is_known = False  # what reads which weight, after the first sweep
        # of the sweep that runs
        self._statistics: dict[int, Statistics] = {}
        self._ahead: list[set[int]] = []

    def run(self, runs: Sequence[_Run]) -> Initialization:
        """Initialize, and return what was done.

        Raises:
            OptionError: the model does not run, or the batches do not suffice.
        """
        before = self._measure(runs)
        self._is_known = True
        for weight, reader in self._others.items():
            self._reasons.setdefault(weight, Why.READ_OTHERWISE(reader=reader))
        chosen = [weight for weight in self._order if weight not in self._reasons]
        for weight in chosen:
            if before[weight].count < 2:
                raise OptionError(
                    f"weight {self._weights[weight].fqn!r} sees {before[weight].count} position(s) in all batches "
                    "together, and a variance needs two; give more batches, or larger ones"
                )
        self._pooled = {weight for reads in self._reads for weight, count in reads.items() if count > 1}
        for _ in range(_ROUNDS if chosen else 0):
            if self._set(runs):
                break
        after = self._measure(runs)
        initialized = tuple(self._told(weight, before[weight], after) for weight in chosen)
        return Initialization(initialized, self._skipped())

    def _measure(self, runs: Sequence[_Run]) -> dict[int, Statistics]:
        self._statistics = {}
        for index, run in enumerate(runs):
            self._forward(index, run, None)
        return self._statistics

    def _set(self, runs: Sequence[_Run]) -> bool:
        """Set all weights, but for pooled ones that have mean 0 and variance 1; return whether all of those had."""
        self._statistics = {}
        self._ahead = [set(reads) - self._pooled - set(self._reasons) for reads in self._reads]
        in_lockstep([partial(self._forward, index, run) for index, run in enumerate(runs)], self._settle)
        pooled = self._pooled & set(self._statistics)
        missing = {weight for weight in pooled if not self._reached(weight, self._statistics)}
        for weight in missing:
            self._set_weight(weight, self._statistics[weight])
        return not missing

    def _forward(self, index: int, run: _Run, ask: Ask | None) -> None:
        """Run a copy of the model, with parameters in common, on one batch; in lockstep where there is an ``ask``."""
        batch, forward = run
        if index == len(self._reads):
            self._reads.append(Counter())
            self._randomness.append(Randomness())
        self._randomness[index].restore()
        copied = clone(self._model, sharing=self._model.parameters())
        watch = Watch(copied, self._weights, partial(self._visit, index, batch, ask))
        torch.clear_autocast_cache()  # it holds what biases were
        try:
            with torch.no_grad(), watch:
                forward(copied)
        except WnconvertError:
            raise
        except Exception as error:
            raise OptionError(f"the model does not run on batch {index}: {described(error)}") from error
        self._others |= watch.others if not self._is_known else {}

    def _visit(self, index: int, batch: Any, ask: Ask | None, call: Call) -> Tensor:
        """Take in a call, and return what it gives."""
        weight = call.weight
        if not self._is_known and weight not in self._reasons:
            self._meet(index, call)
        if weight in self._reasons:
            return call.output
        moments = moments_of(call, batch, self._mask)
        if not moments.finite:
            fqn = self._weights[weight].fqn
            raise OptionError(f"batch {index} gives values that are not finite at weight {fqn!r}; look for them there")
        bias = self._settable(call)
        if ask is not None and weight in self._ahead[index]:
            now = Randomness()
            is_set = ask(_Question(call, bias, moments))
            now.restore()
            return self._again(call) if is_set else call.output
        self._statistics.setdefault(weight, Statistics()).add(bias, moments, call.output)
        return call.output

    def _again(self, call: Call) -> Tensor:
        """Return what a call gives with the parts and the bias that are there now, to the bit."""
        torch.clear_autocast_cache()
        weight = self._weights[call.weight]
        return call.again(weight.scheme.compose(weight.parts, weight.spec).to(call.value.dtype))

    def _meet(self, index: int, call: Call) -> None:
        """Note a call while it is only measured."""
        weight = call.weight
        reason = reason_against(self._weights[weight], call)
        if reason is None and self._dims.setdefault(weight, call.dim or 0) != call.dim:
            reason = Why.READ_OTHERWISE(reader="another layer")
        if reason is not None:
            self._reasons.setdefault(weight, reason)
            return
        self._order.setdefault(weight)
        self._reads[index][weight] += 1
        if call.bias is not None:
            self._of_bias.setdefault(id(call.bias), set()).add(weight)

    def _settable(self, call: Call) -> int | None:
        """Return the id of the bias of a call, if it is a parameter that is trained and no other weight's bias."""
        key = id(call.bias)
        return key if key in self._biases and len(self._of_bias.get(key, ())) == 1 else None

    def _settle(self, waiting: Mapping[int, _Question]) -> dict[int, bool]:
        """Set the first weight that all of those wait for that have it ahead, and tell them whether it was set."""
        asked = {question.call.weight for question in waiting.values()}
        for weight in (each for each in self._order if each in asked):
            there = {index: question for index, question in waiting.items() if question.call.weight == weight}
            if not any(weight in self._ahead[index] for index in waiting if index not in there):
                break
        else:  # they wait for each other
            weight = next(each for each in self._order if each in asked)
            self._pooled.add(weight)
        return self._answers(weight, waiting)

    def _answers(self, weight: int, waiting: Mapping[int, _Question]) -> dict[int, bool]:
        there = {index: question for index, question in waiting.items() if question.call.weight == weight}
        statistics = self._statistics.setdefault(weight, Statistics())
        for index, question in there.items():
            statistics.add(question.bias, question.moments, question.call.output)
            self._ahead[index].discard(weight)
        if weight in self._pooled:
            for ahead in self._ahead:
                ahead.discard(weight)
            return dict.fromkeys(there, False)
        self._set_weight(weight, statistics)
        return dict.fromkeys(there, True)

    def _set_weight(self, weight: int, statistics: Statistics) -> None:
        changed = scale_(self._weights[weight], self._dims[weight], statistics.factor)
        for key, moments in statistics.groups.items():
            if key is not None:
                move_(self._biases[key], moments, statistics.factor, statistics.dead)
                changed.append(self._biases[key])
        self.changed.update(map(id, changed))

    def _off(self, weight: int, after: Mapping[int, Statistics]) -> tuple[float, float]:
        """Return the largest mean, and distance of the variance from 1, that living units have."""
        if weight not in after:
            return float("nan"), float("nan")
        statistics = after[weight]
        alive = ~statistics.dead
        means = [each.mean for key, each in statistics.groups.items() if key is not None]
        largest = torch.stack([torch.zeros_like(statistics.variance), *(mean.abs() for mean in means)]).amax(0)
        off = torch.stack([largest, (statistics.variance - 1).abs()])[:, alive]
        mean, variance = off.amax(1).tolist() if alive.any() else (0.0, 0.0)
        return mean, variance

    def _reached(self, weight: int, after: Mapping[int, Statistics]) -> bool:
        limits = _HALF if weight in after and after[weight].eps > 1e-4 else _FULL
        return all(off <= limit for off, limit in zip(self._off(weight, after), limits, strict=True))

    def _told(self, weight: int, before: Statistics, after: Mapping[int, Statistics]) -> Initialized:
        total = before.total
        return Initialized(
            self._weights[weight].fqn,
            total.mean,
            total.std,
            tuple(self._names[key] for key in after.get(weight, before).groups if key is not None),
            tuple(before.dead.nonzero().flatten().tolist()),
            *self._off(weight, after),
            before.calls,
            self._reached(weight, after),
        )

    def _skipped(self) -> tuple[Skipped, ...]:
        found = []
        for index, weight in enumerate(self._weights):
            if index not in self._order or index in self._reasons:
                found.append(Skipped(weight.fqn, "", self._reasons.get(index, Why.NOT_RUN())))
        return tuple(found)
