"""What `wnconvert.Monitor` adds to a training step at its default interval, on models with weight norm by wnconvert.

A step is forward, backward and an SGD update. The monitor is given as many steps as it has from one record to the next,
after a real one: it counts them, remembers the directions before the last one, and records after it. That is timed by
itself, for a difference of whole runs would be lost in their spread. *live* is the same with the live table on a screen
of 120 x 40: drawn when it begins, with the record, and when it ends.
"""

from __future__ import annotations

import inspect
import io
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import nn

import wnconvert
from models import TASKS, Task, linear_stack
from paired import Race, Side, machine, parse, parser, table
from training_step import Training, module

EVERY = inspect.signature(wnconvert.Monitor).parameters["every"].default
TARGET = 0.02
NETS = {
    "tiny": Task("100 Linear(8, 8), the cheapest of layers, input 8 x 8", lambda: linear_stack(100), (8, 8)),
    "linear": Task(
        "8 Linear(512, 512), input 64 x 512", lambda: nn.Sequential(*[_layer() for _ in range(8)]), (64, 512)
    ),
    **TASKS,
}


def _layer() -> nn.Module:
    return nn.Linear(512, 512)


@dataclass
class Watched:
    """A model in training, and what looks at it."""

    training: Training
    monitor: wnconvert.Monitor

    @classmethod
    def of(cls, task: Task) -> Watched:
        """Return a newly made and warmed-up model that has gradients."""
        training = Training(module(task.build()), task)
        screen = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
        monitor = wnconvert.Monitor(training.model, optimizer=training.optimizer, live=screen)
        monitor.record()
        training.steps(2)
        return cls(training, monitor)

    def watch(self) -> None:
        """Do what the monitor does from one record to the next."""
        for _ in range(EVERY):
            self.monitor.step()
        assert len(self.monitor.records) == 2 * len(self.monitor.names)

    def show(self) -> None:
        """Do that with the live table."""
        self.monitor.show()
        try:
            self.watch()
        finally:
            self.monitor.__exit__(None, None, None)


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=15, quick=3)
    arguments.add_argument("--model", nargs="+", choices=NETS, default=list(NETS), help="which models")
    options = parse(arguments)
    print(machine())
    rows = []
    for name in options.model:
        task = NETS[name]
        torch.manual_seed(0)
        sides = {
            "step": Side(lambda watched: watched.training.steps(4), lambda task=task: Watched.of(task), 4),
            "monitor": Side(Watched.watch, lambda task=task: Watched.of(task), EVERY),
            "live": Side(Watched.show, lambda task=task: Watched.of(task), EVERY),
        }
        race = Race(sides, options.rounds)
        step, *looks = (race.unit_time(side) for side in sides)
        verdict = "met" if max(looks) <= TARGET * step else "missed"
        times = (f"{look * EVERY * 1e3:.3g} ms" for look in looks)
        shares = (f"**{look / step:.2%}**" for look in looks)
        cells = (task.title, f"{step * 1e3:.3g} ms", *times, *shares, f"{TARGET:.0%}", verdict)
        rows.append(f"| {' | '.join(cells)} |")
    header = (
        f"| model | step | every {EVERY} steps: monitor | live | share of a step | live | target | |\n|{'---|' * 8}"
    )
    table("Monitor of training", rows, header)


if __name__ == "__main__":
    main()
