"""Eager inference: the folded model against the plain one, and what folding saves.

The folded model is first seen to give the outputs of the applied one, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import wnconvert
from models import TASKS, Task, register
from paired import Race, Side, machine, parse, parser, table


@dataclass
class Inference:
    """A model with an input."""

    model: nn.Module
    input: Tensor

    @torch.no_grad()
    def forwards(self, count: int) -> None:
        """Run the model several times."""
        for _ in range(count):
            self.model(self.input)


def plain(model: nn.Module) -> nn.Module:
    """Return the model as it is."""
    return model


def applied(model: nn.Module) -> nn.Module:
    """Return the model with weight norm by wnconvert."""
    return wnconvert.apply(model, inplace=True).model


def folded(model: nn.Module) -> nn.Module:
    """Return the model after apply and fold."""
    return wnconvert.fold(applied(model), inplace=True).model


def side(task: Task, convert: Callable[[nn.Module], nn.Module], count: int) -> Side:
    """Return runs of a newly made and warmed-up model."""

    def setup() -> Inference:
        inference = Inference(convert(task.build()).eval(), task.input())
        inference.forwards(3)
        return inference

    return Side(lambda inference: inference.forwards(count), setup, count)


@torch.no_grad()
def check(task: Task) -> None:
    """See that folding changes no bit of the output."""
    model, inputs = applied(task.build()).eval(), task.input()
    assert torch.equal(model(inputs), wnconvert.fold(model).model(inputs)), "folding changed the output"


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=41, quick=5)
    arguments.add_argument("--model", nargs="+", choices=TASKS, default=list(TASKS), help="which models")
    arguments.add_argument("--forwards", type=int, default=10, help="forwards in a run (default: %(default)s)")
    options = parse(arguments)
    print(machine())
    for task in (TASKS[name] for name in options.model):
        check(task)
        ways = {"plain": plain, "folded": folded, "applied": applied, "torch": register}
        race = Race({name: side(task, way, options.forwards) for name, way in ways.items()}, options.rounds)
        rows = [
            race.row("folded", "folded", "plain", 1.0),
            race.row("applied, not folded", "applied", "folded"),
            race.row("torch's parametrization, not removed", "torch", "folded"),
        ]
        table(f"Inference, {task.title}", rows)


if __name__ == "__main__":
    main()
