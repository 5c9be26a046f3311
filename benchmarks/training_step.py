"""Eager training steps with weight norm by wnconvert, in a module and in a graph, against torch's parametrization.

A step is forward, backward and an SGD update. All sides are first seen to take the same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn

import wnconvert
from models import TASKS, Task, register
from paired import Race, Side, machine, parse, parser, table
from wnconvert.tracing.tracing import trace


class Training:
    """A model in training."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model = model.train()
        self.input = task.input()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(self) -> torch.Tensor:
        """Take one step and return the loss before it."""
        self.optimizer.zero_grad()
        loss = self.model(self.input).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def steps(self, count: int) -> None:
        """Take several steps."""
        for _ in range(count):
            self.step()


def plain(model: nn.Module) -> nn.Module:
    """Return the model without weight norm."""
    return model


def module(model: nn.Module) -> nn.Module:
    """Return the model with weight norm by wnconvert."""
    return wnconvert.apply(model, inplace=True).model


def graph(model: nn.Module) -> nn.Module:
    """Return the traced model with nodes for its weight norm."""
    return wnconvert.apply(trace(model), inplace=True).model


WAYS = {"torch": register, "wnconvert": module, "wnconvert, graph": graph, "plain": plain}


def side(task: Task, convert: Callable[[nn.Module], nn.Module], steps: int) -> Side:
    """Return steps of a newly made and warmed-up model."""

    def setup() -> Training:
        training = Training(convert(task.build()), task)
        training.steps(2)
        return training

    return Side(lambda training: training.steps(steps), setup, steps)


def check(task: Task) -> None:
    """See that all sides do the same."""
    model = task.build()
    theirs, *ours = (Training(convert(deepcopy(model)), task) for convert in (register, module, graph))
    for _ in range(3):
        loss = theirs.step()
        for each in ours:
            each.input = theirs.input
            # not bit for bit: torch takes the magnitude from another kernel than its forward
            torch.testing.assert_close(each.step(), loss)


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=25, quick=5)
    arguments.add_argument("--model", nargs="+", choices=TASKS, default=list(TASKS), help="which models")
    arguments.add_argument("--steps", type=int, default=4, help="steps in a run (default: %(default)s)")
    options = parse(arguments)
    print(machine())
    for task in (TASKS[name] for name in options.model):
        check(task)
        race = Race({name: side(task, way, options.steps) for name, way in WAYS.items()}, options.rounds)
        rows = [race.row(name, name, "torch", 1.0) for name in ("wnconvert", "wnconvert, graph")]
        rows += [race.row(name, name, "plain") for name in ("wnconvert", "wnconvert, graph", "torch")]
        table(f"Training step, {task.title}", rows)


if __name__ == "__main__":
    main()
