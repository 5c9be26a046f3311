"""A study: variants of one model, trained alike over several seeds, and what is claimed of them.

The rules are the same for every study and every variant:

- **Selection.** At each setting, each variant gets the learning rate whose mean final quality over `SELECTION` seeds is
  the best. These seeds count for nothing else.
- **Report.** Each variant is then trained with the report's seeds, which give all variants the same data in the same
  order: at each setting with its own learning rate, and at the first setting with all of them.
- **Claims.** A claim compares two variants by one measure, seed by seed. Its 95 % interval is Student's, of the mean of
  these differences. Where it lies above zero the claim is confirmed, where it lies below it is refuted, and else it is
  undecided.

A run that diverged, or never reached the target, counts with the worst quality and all of its steps.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from folding import folded

#: seeds that choose learning rates, far from those of the report
SELECTION = (1001, 1002)
#: of a training that only shows that it runs
QUICK_STEPS = 2
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "evidence"

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one training gave.

    Args:
        model: the trained model.
        inputs: arguments of a call of it, by which it is compared with what it folds to.
        curve: quality after so many steps.
        seconds: CPU seconds of the steps, without evaluations.
        steps: how many steps were done.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    curve: list[tuple[int, float]]
    seconds: float
    steps: int


@dataclass(frozen=True)
class Run:
    """One training, as it is written down."""

    variant: str
    setting: int
    rate: float
    seed: int
    quality: float
    steps: int
    to_target: float
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """A sentence that figures decide.

    Args:
        text: what is claimed.
        measure: a name in `report.MEASURES`.
        variant: of which it is claimed.
        against: the variant to compare with.
        setting: index of the setting that it is about.
    """

    text: str
    measure: str
    variant: str
    against: str
    setting: int = 0


@dataclass(frozen=True)
class Study:
    """What is trained, how, and what is claimed.

    Args:
        name: of its file.
        title: heading of its section.
        about: the data, the model, and how long it is trained.
        quality: what is measured; more is better.
        target: the quality that "steps to target" are counted to.
        worst: the quality of a run that diverged.
        variants: name -> what it is.
        rates: learning rates to choose from.
        settings: what else is varied; the first is the default.
        train: ``train(variant, rate, seed, steps, **setting)``.
        steps: of one training.
        claims: sentences to decide.
        seeds: how many the report has.
    """

    name: str
    title: str
    about: str
    quality: str
    target: float
    worst: float
    variants: Mapping[str, str]
    rates: Sequence[float]
    settings: Sequence[Setting]
    train: Callable[..., Outcome]
    steps: int
    claims: Sequence[Claim]
    seeds: int = 5


class Clock:
    """CPU seconds of what runs within ``with clock:``, summed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._start


def is_look(step: int, steps: int, looks: int = 10) -> bool:
    """Return whether the quality is looked at after a step: so often, and after the last one."""
    return step % math.ceil(steps / looks) == 0 or step == steps


def scaled(model: nn.Module, scale: float) -> nn.Module:
    """Multiply each weight matrix that a model starts with."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model


def trained(study: Study, variant: str, setting: int, rate: float, seed: int) -> Run:
    """Train once, on one thread."""
    outcome = _outcome(study, variant, setting, rate, seed)
    curve = [(step, value if math.isfinite(value) else study.worst) for step, value in outcome.curve]
    return Run(
        variant=variant,
        setting=setting,
        rate=rate,
        seed=seed,
        quality=max(curve[-1][1], study.worst),
        steps=outcome.steps,
        to_target=round(crossing(curve, study), 2),
        seconds=round(outcome.seconds, 4),
        curve=[(step, round(max(value, study.worst), 5)) for step, value in curve],
    )


def crossing(curve: Sequence[tuple[int, float]], study: Study) -> float:
    """Return after how many steps a curve reaches the target, on a straight line between two looks."""
    for index, (step, value) in enumerate(curve):
        if value >= study.target:
            if index == 0:
                return step
            before, lower = curve[index - 1]
            return before + (step - before) * (study.target - lower) / (value - lower)
    return study.steps


def _outcome(study: Study, variant: str, setting: int, rate: float, seed: int) -> Outcome:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return study.train(variant, rate, seed, study.steps, **study.settings[setting])


def chosen(runs: Sequence[Run], variant: str, setting: int) -> float:
    """Return the learning rate of a variant: the best mean quality over the selection's seeds, the lower one of two."""
    by_rate: dict[float, float] = {}
    for run in runs:
        if run.seed in SELECTION and (run.variant, run.setting) == (variant, setting):
            by_rate[run.rate] = by_rate.get(run.rate, 0.0) + run.quality
    return max(sorted(by_rate), key=by_rate.__getitem__)


def conduct(study: Study, processes: int = 2) -> dict[str, Any]:
    """Train everything, and return what is written down."""
    settings = range(len(study.settings))
    selection = product(study.variants, settings, study.rates, SELECTION)
    runs, spent = _all(study, list(selection), processes)
    report = [
        (variant, setting, rate, seed)
        for variant in study.variants
        for setting in settings
        for rate in (study.rates if setting == 0 else [chosen(runs, variant, setting)])
        for seed in range(study.seeds)
    ]
    # what is compared runs side by side: a machine that others use too is sometimes fast and sometimes slow
    report.sort(key=lambda run: (run[1], run[3], run[2]))
    more, further = _all(study, report, processes)
    runs += more
    after = {}
    for variant in study.variants:
        outcome = _outcome(study, variant, 0, chosen(runs, variant, 0), 0)
        after[variant] = folded(outcome.model, outcome.inputs, rounds=min(30, study.steps))
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "minutes": round((spent + further) / processes / 60, 2),
        "chosen": {variant: [chosen(runs, variant, setting) for setting in settings] for variant in study.variants},
        "runs": [_written(run, chosen(runs, run.variant, run.setting)) for run in runs if run.seed not in SELECTION],
        "folding": after,
    }


def _written(run: Run, rate: float) -> dict[str, Any]:
    """Keep the curves that are drawn, those of the default setting at the chosen rate."""
    return asdict(run if run.setting == 0 and run.rate == rate else replace(run, curve=[]))


def _all(study: Study, wanted: Sequence[tuple[str, int, float, int]], processes: int) -> tuple[list[Run], float]:
    """Return all runs, and the CPU seconds that they took with their evaluations."""
    one = partial(_timed, study)
    if processes == 1:
        found = [one(*each) for each in wanted]
    else:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            found = list(pool.map(one, *zip(*wanted, strict=True)))
    return [run for run, _ in found], sum(seconds for _, seconds in found)


def _timed(study: Study, variant: str, setting: int, rate: float, seed: int) -> tuple[Run, float]:
    clock = Clock()
    with clock:
        run = trained(study, variant, setting, rate, seed)
    return run, clock.seconds


def quick(study: Study) -> Study:
    """Return what shows in seconds that a study runs: its first setting, at one learning rate, for a few steps."""
    claims = [claim for claim in study.claims if claim.setting == 0]
    return replace(
        study, steps=QUICK_STEPS, seeds=2, rates=study.rates[1:2], settings=study.settings[:1], claims=claims
    )


def main(study: Study, arguments: Sequence[str] | None = None) -> None:
    """Conduct a study and write its results: the command line of each of them."""
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--quick", action="store_true", help="a few steps of each variant, to see that all of it runs")
    parser.add_argument("--seeds", type=int, default=study.seeds, help="how many the report has")
    parser.add_argument("--processes", type=int, default=2, help="how many trainings run at once")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args(arguments)
    study = replace(study, seeds=given.seeds)
    if given.quick:
        study = quick(study)
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / f"{study.name}.json"
    results = conduct(study, given.processes)
    path.write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path}: {len(results['runs'])} runs of the report in {results['minutes']} minutes")
