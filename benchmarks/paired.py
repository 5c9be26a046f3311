"""Compare the time of several ways to do one thing, in turn and with a fresh set-up each time.

A machine that others use too is sometimes fast and sometimes slow. So the sides of a comparison run one after the
other, again and again, and what is reported is the median of the ratios within each round. CPU time decides: on a
quiet machine it is the wall time of a single thread, and on a busy one it is disturbed less.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

HEADER = "| what | time | against | time | ratio | quartiles | wall ratio | target | |" + "\n|" + "---|" * 9


@dataclass(frozen=True)
class Side:
    """One way to do a thing: ``run(setup())``, of which only ``run`` is timed.

    Attributes:
        run: what is timed; called with what ``setup`` returned.
        setup: makes a new state for each run.
        units: how many things a run does; times are shown for one of them.
    """

    run: Callable[[Any], object]
    setup: Callable[[], Any] = lambda: None
    units: int = 1


class Race:
    """The times of each side, round by round.

    Args:
        sides: what to compare, by name.
        rounds: how often each side runs.
    """

    def __init__(self, sides: Mapping[str, Side], rounds: int) -> None:
        self._sides = dict(sides)
        self._cpu: dict[str, list[float]] = {name: [] for name in sides}
        self._wall: dict[str, list[float]] = {name: [] for name in sides}
        for index in range(rounds):
            print(f"round {index + 1} of {rounds}: {', '.join(sides)}", file=sys.stderr)
            # forth and back, so that no side always runs after the same other one
            for name in sorted(sides, key=list(sides).index, reverse=bool(index % 2)):
                cpu, wall = _time(sides[name])
                self._cpu[name].append(cpu)
                self._wall[name].append(wall)

    def unit_time(self, name: str) -> float:
        """Return the median CPU time of one unit of a side, in seconds."""
        return median(self._cpu[name]) / self._sides[name].units

    def least(self, name: str) -> float:
        """Return the least CPU time of one unit of a side, in seconds."""
        return min(self._cpu[name]) / self._sides[name].units

    def row(self, label: str, side: str, against: str, target: float | None = None, *, total: bool = False) -> str:
        """Return a row of the table that `HEADER` begins.

        Args:
            label: the row's first cell.
            side: name of the side that is judged.
            against: name of the side that it is compared with.
            target: the highest ratio that was asked for.
            total: compare whole runs, and not their units.
        """
        units = 1.0 if total else self._sides[against].units / self._sides[side].units
        cpu = [a / b * units for a, b in zip(self._cpu[side], self._cpu[against], strict=True)]
        wall = [a / b * units for a, b in zip(self._wall[side], self._wall[against], strict=True)]
        low, high = _quartiles(cpu)
        cells = [
            label,
            _readable(self.unit_time(side) * (self._sides[side].units if total else 1)),
            against,
            _readable(self.unit_time(against) * (self._sides[against].units if total else 1)),
            f"**{median(cpu):.2f}x**",
            f"{low:.2f} - {high:.2f}",
            f"{median(wall):.2f}x",
            "" if target is None else f"{target:.2f}x",
            "" if target is None else _verdict(median(cpu), low, target),
        ]
        return f"| {' | '.join(cells)} |"


def parser(description: str | None, rounds: int, quick: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        description: the script's docstring.
        rounds: default number of rounds.
        quick: number of rounds with ``--quick``.
    """
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--quick", action="store_true", help=f"smaller and fewer: {quick} rounds; figures are rough")
    result.add_argument("--rounds", type=int, help=f"how often each side runs (default: {rounds})")
    result.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    result.set_defaults(default_rounds=(quick, rounds))
    return result


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and settle the number of rounds and threads."""
    import torch

    options = arguments.parse_args()
    quick, rounds = options.default_rounds
    options.rounds = options.rounds or (quick if options.quick else rounds)
    torch.set_num_threads(options.threads)
    return options


def machine() -> str:
    """Return one line about what the figures were measured with."""
    import torch

    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores (load {load}), "
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    )


def table(title: str, rows: Sequence[str], header: str = HEADER) -> None:
    """Print a table in markdown."""
    print(f"\n### {title}\n\n{header}", *rows, sep="\n", flush=True)


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in markdown whose rows are cells."""
    print("", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", sep="\n")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def _time(side: Side) -> tuple[float, float]:
    """Return the CPU time and the wall time of one run."""
    state = side.setup()
    gc.collect()
    cpu, wall = _cpu_time(), time.perf_counter()
    result = side.run(state)
    times = _cpu_time() - cpu, time.perf_counter() - wall
    del result, state
    return times


def _cpu_time() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def _verdict(ratio: float, low: float, target: float) -> str:
    if ratio <= target:
        return "met"
    return "within the spread" if low <= target else "missed"


def _readable(seconds: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
