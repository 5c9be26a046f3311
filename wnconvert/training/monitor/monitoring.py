"""A monitor of training: what composed weights, their directions and their gradients do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wnconvert.checkpoint.writing import write
from wnconvert.errors import NothingToConvertError, OptionError
from wnconvert.training.composed import Composed, composed_weights
from wnconvert.training.monitor.measuring import MEASURES, Gauge, Limits, Record, gathered, summaries
from wnconvert.training.monitor.plotting import figure_of
from wnconvert.training.monitor.tables import text_of

if TYPE_CHECKING:
    from wnconvert.training.monitor.live import Console, LiveTable, View


@dataclass
class _Turn:
    """Weights whose directions are moved by one optimizer.

    Attributes:
        weights: their places among all.
        steps: how many steps were taken.
        aimed: before which step the directions were remembered for the last time.
        wanders: whether a step moves them several times, as LBFGS does: where its last gradient was computed, nothing
            says.
    """

    weights: list[int]
    steps: int = 0
    aimed: int = 0
    wanders: bool = False


class Monitor:
    """Records what each composed weight of a model does in training; see `Record` for what is recorded.

        with wnconvert.Monitor(model, optimizer=optimizer) as monitor:
            train(model, optimizer)
        monitor.to_csv("run.csv")

    As a context it looks after each step of the optimizer, while the gradients of the step are there still; of several
    optimizers, each has steps of its own and the weights whose directions it moves. Without an optimizer, call `step`
    after each step, and before gradients are set to zero. It looks only: weights, gradients,
    generators and the state of the optimizer stay as they are, to the bit. It may be made before or after the
    model has its place, for it looks its tensors up by name each time. A weight that the model no longer composes is
    no longer recorded.

    It keeps one copy of each direction (two from the step before a record on) and a record for each weight and each
    time; what is read from the device is one vector of numbers each time. Where several processes hold the weights
    together (``fully_shard``), each process must have a monitor, for the weights are gathered. What is copied or
    pickled inside of the context is not inside of it.

    Attributes:
        records: what was recorded, in the order of steps.
        steps: how many steps were taken; of several optimizers, by the one that took most.
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
        live: bool | Console = False,
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
            live: show a table of the last records while it is a context: on stderr, or on a console of rich.

        Raises:
            KindError: it is no module.
            NothingToConvertError: it has no composed weight.
            OptionError: a number that cannot be used, a weight without data, or an optimizer that has none of the
                weights.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every is {every!r}; it must be a whole number of steps from 1 up")
        if not all(isinstance(limit, (int, float)) for limit in (dead, exploding)) or not 0 <= dead < exploding:
            raise OptionError(f"dead is {dead!r} and exploding {exploding!r}; they must be 0 <= dead < exploding")
        if writer is not None and not hasattr(writer, "add_scalar"):
            raise OptionError(f"a {type(writer).__name__} is no writer; it must have add_scalar, as a SummaryWriter")
        self.records: list[Record] = []
        self._last: dict[str, Record] = {}
        self.every = every
        self._model, self._writer, self._hooks, self._entered = model, writer, ExitStack(), 0
        self._table = _table(live)
        self._limits = Limits(dead, exploding)
        self._weights = [weight for weight in composed_weights(model) if weight.direction.numel()]
        if not self._weights:
            raise NothingToConvertError(
                f"{type(model).__name__!r} has no composed weight to monitor; wnconvert.apply makes some"
            )
        self._part_names = _names_of(model, self._weights)
        _require_data(self._weights)
        with torch.no_grad():
            common = gathered(self._weights)
            self._gauges = [Gauge(weight, each) for weight, each in zip(self._weights, common, strict=True)]
        self._turns: list[_Turn] = []
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
        steps = self.steps
        owned = [{id(x) for group in each.param_groups for x in group["params"]} for each in self._optimizers]
        wander = [isinstance(each, torch.optim.LBFGS) for each in self._optimizers] or [False]
        self._turns = [_Turn([], steps, steps, wanders) for wanders in wander]
        for place, weight in enumerate(self._weights):
            owner = next((turn for turn, own in enumerate(owned) if id(weight.direction) in own), 0)
            self._turns[owner].weights.append(place)
        if self._entered:
            self._hook()

    @property
    def steps(self) -> int:
        """How many steps were taken; of several optimizers, by the one that took most."""
        return max((turn.steps for turn in self._turns), default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names of the weights."""
        return tuple(weight.fqn for weight in self._weights)

    def __enter__(self) -> Monitor:
        """Look after each step of the optimizers from now on; inside of itself it is the same."""
        self._entered += 1
        self._hook()
        self.show()
        return self

    def _hook(self) -> None:
        self._hooks.close()
        for optimizer in self._optimizers:
            self._hooks.callback(optimizer.register_step_post_hook(self.step).remove)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the optimizers alone again."""
        self._entered = max(self._entered - 1, 0)
        if not self._entered:
            self._hooks.close()
            if self._table is not None:
                self._table.stop(self._view())

    def show(self) -> None:
        """Begin to show the live table, if there is to be one; a context does it, and ends it."""
        if self._table is not None:
            self._table.start(self._view())

    def step(self, *given: Any) -> None:
        """Count a step, and record it if it is its turn; the arguments are those of an optimizer's hook."""
        by = given[0] if given else None
        turns = [turn for turn, each in zip(self._turns, self._optimizers, strict=False) if each is by] or self._turns
        for turn in turns:
            turn.steps += 1
        due = [turn for turn in turns if turn.steps % self.every == 0]
        if due:
            self._record(due)
        self._aim([turn for turn in turns if (turn.steps + 1) % self.every == 0 and turn not in due])

    def record(self) -> list[Record]:
        """Record now, whatever the turn; return the records, one for each weight that the model still composes.

        Raises:
            OptionError: the weights have no data, for the model is on ``meta``.
        """
        return self._record(self._turns)

    @torch.no_grad()
    def _record(self, turns: list[_Turn]) -> list[Record]:
        of = {place: turn for turn in turns for place in turn.weights}
        now = self._now()  # of all, for what some share is computed of all
        common = {place: each for (place, _), each in zip(now, gathered([weight for _, weight in now]), strict=True)}
        there = [(place, weight) for place, weight in now if place in of]
        gauges, weights = [self._gauges[place] for place, _ in there], [weight for _, weight in there]
        looks = [
            gauge.look(weight, common[place], aimed=None if turn.wanders else turn.aimed == turn.steps - 1)
            for gauge, (place, weight) in zip(gauges, there, strict=True)
            for turn in [of[place]]
        ]
        for turn in turns:
            turn.aimed = turn.steps
        known = self._learning_rates()
        rates = [known.get(id(weight.direction)) for weight in weights]
        measured = summaries(looks, [gauge.usual for gauge in gauges], rates, self._limits)
        found = [
            Record(of[place].steps, weight.fqn, weight.scheme.name, **values)
            for (place, weight), values in zip(there, measured, strict=True)
        ]
        self.records += found
        self._last |= {record.weight: record for record in found}
        for record in found if self._writer is not None else ():
            self._write(record)
        if self._table is not None:
            self._table.update(self._view())
        return found

    @property
    def latest(self) -> list[Record]:
        """The last record of each weight that has one."""
        return [self._last[name] for name in self.names if name in self._last]

    def __str__(self) -> str:
        """A table of the last record of each weight."""
        return text_of(self.latest)

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
    def _aim(self, turns: list[_Turn]) -> None:
        """Remember the directions at which the gradients of the next step will be computed."""
        of = {place for turn in turns for place in turn.weights}
        for place, weight in self._now() if of else ():
            if place in of:
                self._gauges[place].aim(weight)
        for turn in turns:
            turn.aimed = turn.steps

    def _now(self) -> list[tuple[int, Composed]]:
        """Return the weights that are still there, with their places among all and their parts as they are now."""
        tensors = dict(_named(self._model))
        found: list[tuple[int, Composed]] = []
        for place, (weight, names) in enumerate(zip(self._weights, self._part_names, strict=True)):
            parts = {part: tensors[name] for part, name in names.items() if name in tensors}
            if len(parts) == len(names) and tuple(parts[weight.scheme.direction].shape) == weight.spec.shape:
                found.append((place, replace(weight, parts=parts)))
        _require_data([weight for _, weight in found])
        return found

    def _view(self) -> View:
        from wnconvert.training.monitor.live import View

        return View(self.steps, self.latest)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no hooks, and shows nothing: it is not inside of the context."""
        return {**self.__dict__, "_hooks": ExitStack(), "_entered": 0, "_table": None}

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


def _named(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _names_of(model: nn.Module, weights: list[Composed]) -> list[dict[str, str]]:
    """Return for each weight what its parts are called among the parameters and buffers of the model."""
    name_of = {id(tensor): name for name, tensor in _named(model)}
    return [{part: name_of[id(tensor)] for part, tensor in weight.parts.items()} for weight in weights]


def _require_data(weights: list[Composed]) -> None:
    for weight in weights:
        if weight.direction.is_meta:
            raise OptionError(f"{weight.fqn!r} has no data; load or initialize the model before it is monitored")


def _table(live: Any) -> LiveTable | None:
    """Return what shows records, if anything is to; rich is not imported for nothing."""
    if live is False:
        return None
    from wnconvert.training.monitor.live import LiveTable

    if live is not True and not hasattr(live, "set_live"):
        raise OptionError(f"live is {live!r}; it must be True, False, or a Console of rich")
    return LiveTable(None if live is True else live)
