"""One model of the fuzzer: drawn, converted in several ways, compared; and what is said where it differs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from tests.fuzz.differential import Outcome, Way, compare
from tests.fuzz.drawing import Plan, draw
from tests.fuzz.twins import DifferenceError
from tests.fuzz.ways import COMPARED, DEFAULT, EXAMPLE, GRAPH, INPLACE
from tests.helpers import variants
from wnconvert.scheme import Scheme
from wnconvert.schemes.weight_norm import WeightNorm

#: schemes that keep the function, without state of their own
SCHEMES = [scheme for scheme in variants() if scheme.preserving and not scheme.dynamic]
#: constructs with frozen weights. A norm that is common to all weights hands the gradient of a frozen one on to the
#: others, and that gradient is not known from the model
FROZEN = {"FrozenWeight", "LowRank", "MomentumTeacher", "RequiresGradOfTheWeightSet"}


@dataclass(frozen=True)
class Trial:
    """One comparison.

    Attributes:
        plan: the model.
        seed: of its weights and inputs.
        way: how it is converted.
        scheme: the scheme.
        training_first: whether it is converted in training mode.
        used: whether it has been called before.
    """

    plan: Plan
    seed: int
    way: Way
    scheme: Scheme
    training_first: bool
    used: bool

    def run(self, plan: Plan | None = None) -> Outcome:
        """Compare; with ``plan``, that of another model in the same way."""
        return compare(plan or self.plan, self.seed, self.way, self.scheme, self.training_first, self.used)

    def __str__(self) -> str:
        mode = "training" if self.training_first else "evaluation"
        used = ", used before" if self.used else ""
        return f"seed {self.seed}, {self.way.name}, {self.scheme}, converted in {mode} mode{used}: {self.plan}"


def trials(seed: int, plan: Plan | None = None) -> list[Trial]:
    """Return the comparisons of the model of that seed: by default, as a graph, and in one more way."""
    rng = random.Random(f"trials {seed}")
    scheme = WeightNorm() if rng.random() < 0.6 else rng.choice(SCHEMES)
    if scheme.shared and not FROZEN.isdisjoint((plan or draw(seed)).constructs()):
        scheme = WeightNorm()
    modes = (rng.random() < 0.5, rng.random() < 0.25)
    ways = (DEFAULT, GRAPH, rng.choice((EXAMPLE, INPLACE, COMPARED)))
    return [Trial(plan or draw(seed), seed, way, scheme, *modes) for way in ways]


def fuzz(seed: int, plan: Plan | None = None) -> Counter[str]:
    """Compare the model of that seed in all its ways.

    Returns:
        what came of it, counted by way.

    Raises:
        AssertionError: a difference, the seed, and the smallest part of the model that shows it.
    """
    counts: Counter[str] = Counter()
    for trial in trials(seed, plan):
        try:
            outcome = trial.run()
        except DifferenceError as error:
            raise AssertionError(f"{trial}\n{error}\n{_smallest(trial)}") from None
        counts[f"{trial.way.name}: {_kind(outcome)}"] += 1
    return counts


def _kind(outcome: Outcome) -> str:
    if outcome.refused:
        return "refused"
    if outcome.raised:
        return "the model itself raised"
    return "whole" if outcome.whole else "equal"


def _smallest(trial: Trial) -> str:
    """Say which part of a model shows a difference by itself."""
    for plan in trial.plan.parts():
        try:
            trial.run(plan)
        except DifferenceError as error:
            return f"already {plan} differs: {error}"
    return "no smaller part of it differs by itself"
