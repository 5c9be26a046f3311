"""A monitor of training: what composed weights, their directions and their gradients do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from os import PathLike
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.training.composed import Composed, composed_weights
from wnconvert.training.monitor.measuring import MEASURES, Gauge, Limits, Record, gathered, summaries
from wnconvert.training.monitor.plotting import figure_of
from wnconvert.training.monitor.writing import write

#: the columns of the table in text, and the field of each
COLUMNS = {
    "step": "step",
    "norm": "norm",
    "min": "norm_min",
    "max": "norm_max",
    "g": "g",
    "angle": "angle",
    "eff. lr": "effective_lr",
    "radial": "radial",
    "tangential": "tangential",
    "grad g": "gradient_g",
    "dead": "dead",
    "exploding": "exploding",
}


class Monitor:
    """Records what each composed weight of a model does in training; see `Record` for what is recorded.

        with wnconvert.Monitor(model, optimizer=optimizer) as monitor:
            train(model, optimizer)
        monitor.to_csv("run.csv")

    As a context it looks after each step of the optimizer, while the gradients of the step are there still. Without an
    optimizer, call `step` after each step, and before gradients are set to zero. It looks only: weights, gradients,
    generators and the state of the optimizer stay as they are, to the bit. It may be made before or after the
    model has its place, for it looks its tensors up by name each time. A weight that the model no longer composes is
    no longer recorded.

    It keeps one copy of each direction (two from the step before a record on) and a record for each weight and each
    time; what is read from the device is one vector of numbers each time. Where several processes hold the weights
    together (``fully_shard``), each process must have a monitor, for the weights are gathered.

    Attributes:
        records: what was recorded, in the order of steps.
        steps: how many steps were taken.
        names: the weights, by their dotted names.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        every: int = 200,
        writer: Any = None,
        dead: float = Limits.dead,
        exploding: float = Limits.exploding,
    ) -> None:
        """Find the weights, and take a first look, from which the first angles are measured.

        Args:
            model: a converted model, or one with torch's own weight or spectral norm.
            optimizer: one or several: what it sets as learning rate, and whose steps are counted in a context.
            every: how many steps there are from one record to the next.
            writer: is given each number, ``writer.add_scalar("norm/fc.weight", value, step)``, as the `SummaryWriter`
                of `torch.utils.tensorboard` takes it.
            dead: a row whose norm is at most this, as a multiple of the weight's median norm at the start, is dead.
            exploding: a row whose norm is at least this multiple is exploding.

        Raises:
            KindError: it is no module.
            NothingToConvertError: it has no composed weight.
            OptionError: a number that cannot be used, or an optimizer that has none of the weights.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every is {every!r}; it must be a whole number of steps from 1 up")
        if not all(isinstance(limit, (int, float)) for limit in (dead, exploding)) or not 0 <= dead < exploding:
            raise OptionError(f"dead is {dead!r} and exploding {exploding!r}; they must be 0 <= dead < exploding")
        if writer is not None and not hasattr(writer, "add_scalar"):
            raise OptionError(f"a {type(writer).__name__} is no writer; it must have add_scalar, as a SummaryWriter")
        self.records: list[Record] = []
        self.steps = self._aimed = 0
        self.every = every
        self._model, self._writer, self._hooks = model, writer, ExitStack()
        self._limits = Limits(dead, exploding)
        self._weights = [weight for weight in composed_weights(model) if weight.direction.numel()]
        if not self._weights:
            raise NothingToConvertError(
                f"{type(model).__name__!r} has no composed weight to monitor; wnconvert.apply makes some"
            )
        self._part_names = _names_of(model, self._weights)
        with torch.no_grad():
            common = gathered(self._weights)
            self._gauges = [Gauge(weight, each) for weight, each in zip(self._weights, common, strict=True)]
        self.optimizers = optimizer
        if self.optimizers and not {id(weight.direction) for weight in self._weights} & {*self._learning_rates()}:
            raise OptionError(
                f"the optimizer has no part of {self._weights[0].fqn!r}, nor of any other composed weight; make it "
                "of the parameters of the model after the conversion"
            )

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers whose learning rates are recorded; may be set to one, several or None."""
        return self._optimizers

    @optimizers.setter
    def optimizers(self, optimizer: Optimizer | Iterable[Optimizer] | None) -> None:
        several = () if optimizer is None else optimizer if isinstance(optimizer, Iterable) else (optimizer,)
        self._optimizers = tuple(several)
        for each in self._optimizers:
            if not hasattr(each, "param_groups"):
                raise OptionError(f"a {type(each).__name__} is no optimizer")

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names of the weights."""
        return tuple(weight.fqn for weight in self._weights)

    def __enter__(self) -> Monitor:
        """Look after each step of the optimizers from now on."""
        self._hooks.close()
        for optimizer in self._optimizers:
            self._hooks.callback(optimizer.register_step_post_hook(self.step).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the optimizers alone again."""
        self._hooks.close()

    def step(self, *_: Any) -> None:
        """Count a step, and record it if it is its turn; the arguments are those of an optimizer's hook."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.record()
        elif (self.steps + 1) % self.every == 0:
            self._aim()

    @torch.no_grad()
    def record(self) -> list[Record]:
        """Record now, whatever the turn; return the records, one for each weight that the model still composes."""
        there = [(gauge, now) for gauge, now in zip(self._gauges, self._now(), strict=True) if now is not None]
        gauges, weights = [gauge for gauge, _ in there], [weight for _, weight in there]
        aimed, self._aimed = self._aimed == self.steps - 1, self.steps
        looks = [
            gauge.look(weight, each, aimed=aimed)
            for (gauge, weight), each in zip(there, gathered(weights), strict=True)
        ]
        known = self._learning_rates()
        rates = [known.get(id(weight.direction)) for weight in weights]
        found = [
            Record(self.steps, weight.fqn, weight.scheme.name, **values)
            for weight, values in zip(
                weights, summaries(looks, [gauge.usual for gauge in gauges], rates, self._limits), strict=True
            )
        ]
        self.records += found
        if self._writer is not None:
            for record in found:
                self._write(record)
        return found

    @property
    def latest(self) -> list[Record]:
        """The last record of each weight that has one."""
        last = {record.weight: record for record in self.records}
        return [last[name] for name in self.names if name in last]

    def __str__(self) -> str:
        """A table of the last record of each weight."""
        rows = [("weight", *COLUMNS), *((record.weight, *cells(record)) for record in self.latest)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
            for pairs in (tuple(zip(row, widths, strict=True)) for row in rows)
        )

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write all records to a file of comma-separated values; what there is nothing of is empty.

        Raises:
            OutputError: that is not possible; what was there is there still.
        """
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, [field.name for field in fields(Record)], lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, self.records))
        write(path, text.getvalue().encode())

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Draw norms, effective learning rates and angles over the steps; return the figure of matplotlib.

        Args:
            path: also write it there; the suffix says in which format: ``.png``, ``.svg``, ``.pdf``.

        Raises:
            OptionError: matplotlib is not installed, it has no such format, or nothing was recorded.
            OutputError: the file cannot be written.
        """
        return figure_of(self.records, path)

    @torch.no_grad()
    def _aim(self) -> None:
        """Remember the directions at which the gradients of the next step will be computed."""
        self._aimed = self.steps
        for gauge, weight in zip(self._gauges, self._now(), strict=True):
            if weight is not None:
                gauge.aim(weight)

    def _now(self) -> list[Composed | None]:
        """Return the weights with their parts as they are now, and None for what is no longer there."""
        tensors = dict(_named(self._model))
        found: list[Composed | None] = []
        for weight, names in zip(self._weights, self._part_names, strict=True):
            parts = {part: tensors[name] for part, name in names.items() if name in tensors}
            same = len(parts) == len(names) and tuple(parts[weight.scheme.direction].shape) == weight.spec.shape
            found.append(replace(weight, parts=parts) if same else None)
        return found

    def _learning_rates(self) -> dict[int, float]:
        """Return the learning rate of each parameter, by identity."""
        return {
            id(parameter): float(group["lr"])
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def _write(self, record: Record) -> None:
        for measure in MEASURES:
            value = getattr(record, measure)
            if value is not None:
                self._writer.add_scalar(f"{measure}/{record.weight}", value, record.step)


def cells(record: Record) -> list[str]:
    """Return the cells of a record below `COLUMNS`."""
    values = [getattr(record, field) for field in COLUMNS.values()]
    return ["" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}" for value in values]


def _named(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _names_of(model: nn.Module, weights: list[Composed]) -> list[dict[str, str]]:
    """Return for each weight what its parts are called among the parameters and buffers of the model."""
    name_of = {id(tensor): name for name, tensor in _named(model)}
    return [{part: name_of[id(tensor)] for part, tensor in weight.parts.items()} for weight in weights]
