"""Write ``docs/evidence.md`` and its figures from the results of the studies: ``python report.py``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import fmean, median
from typing import Any

from intervals import Interval, of_mean
from study import RESULTS, Claim, Study

STUDIES = ("classification", "char_lstm", "vocoder", "gan", "vae", "dqn", "transformer")
PAGE = RESULTS.parent / "evidence.md"
Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class Measure:
    """What is compared of two variants.

    Args:
        label: what a difference of it means.
        value: of the runs of one variant with one seed at one setting; more is better.
        every_rate: whether these are the runs at all learning rates, or at the chosen one.
        since: whether the value at the default setting and the chosen rate is taken off: what is left is a loss, which
            knows nothing of how good the variant is there.
    """

    label: str
    value: Callable[[Runs], float]
    every_rate: bool = False
    since: bool = False


def _per_step(run: dict[str, Any]) -> float:
    return run["seconds"] / run["steps"]


def _quality(runs: Runs) -> float:
    return fmean(run["quality"] for run in runs)


def _less(value: Callable[[dict[str, Any]], float]) -> Callable[[Runs], float]:
    """Return a measure of which less is better; as logarithms, a difference is a ratio, which is what is shown."""
    return lambda runs: -fmean(math.log(value(run)) for run in runs)


MEASURES = {
    "quality": Measure("final quality", _quality),
    "rates": Measure("what other learning rates lose, on average", _quality, every_rate=True, since=True),
    "loss": Measure("what is lost of the final quality", _quality, since=True),
    "steps": Measure("ratio of steps to the target", _less(lambda run: run["to_target"])),
    "cost": Measure("ratio of CPU time of a step", _less(_per_step)),
    "time": Measure("ratio of CPU time to the target", _less(lambda run: _per_step(run) * run["to_target"])),
}


class Results:
    """The results of a study."""

    def __init__(self, study: Study, folder: Path = RESULTS) -> None:
        self.study = study
        self.data = json.loads((folder / f"{study.name}.json").read_text(encoding="utf-8"))
        self.seeds = sorted({run["seed"] for run in self.data["runs"]})

    def runs(self, variant: str, setting: int = 0, *, every_rate: bool = False) -> Runs:
        """Return the runs of a variant at a setting, with the learning rate that was chosen or with each."""
        rate = self.data["chosen"][variant][setting]
        found = [run for run in self.data["runs"] if (run["variant"], run["setting"]) == (variant, setting)]
        return [run for run in found if every_rate or run["rate"] == rate]

    def interval(self, claim: Claim) -> Interval:
        """Return the 95 % interval of the difference that a claim is about."""
        one, other = (
            [self._value(claim, variant, seed) for seed in self.seeds] for variant in (claim.variant, claim.against)
        )
        return of_mean([mine - theirs for mine, theirs in zip(one, other, strict=True)])

    def _value(self, claim: Claim, variant: str, seed: int) -> float:
        measure = MEASURES[claim.measure]

        def of(runs: Runs) -> float:
            return measure.value([run for run in runs if run["seed"] == seed])

        value = of(self.runs(variant, claim.setting, every_rate=measure.every_rate))
        return value - of(self.runs(variant)) if measure.since else value


def verdict(interval: Interval) -> str:
    """Return what an interval says of a claim that is true where its difference is above zero."""
    if interval.low > 0:
        return "confirmed"
    return "refuted" if interval.high < 0 else "undecided"


def shown(measure: str, interval: Interval) -> str:
    """Return an interval in words: a difference with its sign, or a ratio, of which less is better."""
    if MEASURES[measure].label.startswith("ratio"):
        return f"{math.exp(-interval.mean):.2f}x ({math.exp(-interval.high):.2f} to {math.exp(-interval.low):.2f})"
    return f"{interval.mean:+.3g} ({interval.low:+.3g} to {interval.high:+.3g})"


def page(found: Sequence[Results]) -> str:
    """Return the whole page."""
    torch = sorted({result.data["torch"] for result in found})
    minutes = sum(result.data["minutes"] for result in found)
    text = HEAD.format(torch=", ".join(torch), minutes=round(minutes), count=len(found))
    text += READING + f"\n## Verdicts\n\n{_counts(found)}\n\n" + "".join(map(_claims_of, found))
    return text + "".join(map(_section, found))


def _counts(found: Sequence[Results]) -> str:
    verdicts = [verdict(result.interval(claim)) for result in found for claim in result.study.claims]
    counted = ", ".join(f"{verdicts.count(each)} {each}" for each in ("confirmed", "refuted", "undecided"))
    return f"Of {len(verdicts)} claims: {counted}. By chance alone, about one in twenty would be decided."


def _claims_of(result: Results) -> str:
    rows = [
        f"### {result.study.title}\n",
        "| claim | measured by | difference, 95 % interval | |",
        "| --- | --- | --- | --- |",
    ]
    for claim in result.study.claims:
        interval = result.interval(claim)
        setting = _setting(result.study, claim.setting) if claim.setting else ""
        measured = MEASURES[claim.measure].label + (f" ({setting})" if setting else "")
        rows.append(f"| {claim.text} | {measured} | {shown(claim.measure, interval)} | **{verdict(interval)}** |")
    return "\n".join(rows) + "\n\n"


def _setting(study: Study, index: int) -> str:
    return ", ".join(f"{name} {value}" for name, value in study.settings[index].items()) or "default"


def _section(result: Results) -> str:
    study = result.study
    lines = [
        f"## {study.title}\n",
        f"{study.about} `python examples/evidence/{study.name}.py`: {result.data['minutes']:g} minutes.\n",
        *(f"- `{name}`: {about}" for name, about in study.variants.items()),
        f"\n![{study.title}](evidence/{study.name}.png)\n",
        f"Quality: {study.quality}, target {study.target:g}. Means of {len(result.seeds)} seeds with 95 % intervals.\n",
    ]
    settings = range(len(study.settings))
    heads = [f"quality, {_setting(study, each)}" for each in settings]
    lines.append(f"| variant | {' | '.join(heads)} | steps to target | CPU ms a step |")
    lines.append("| --- |" + " ---: |" * (len(heads) + 2))
    lines += [_row(result, variant) for variant in study.variants]
    lines += [
        "\nIn brackets: the learning rate that was chosen; with `!` it is the least or the largest that there was.\n",
        *_folding(result),
    ]
    return "\n".join(lines) + "\n"


def _row(result: Results, variant: str) -> str:
    cells = []
    for setting in range(len(result.study.settings)):
        interval = of_mean([run["quality"] for run in result.runs(variant, setting)])
        rate = result.data["chosen"][variant][setting]
        edge = "!" if rate in (min(result.study.rates), max(result.study.rates)) else ""
        cells.append(f"{interval.mean:.4g} ± {interval.high - interval.mean:.2g} [{rate:g}{edge}]")
    runs = result.runs(variant)
    return f"| `{variant}` | {' | '.join(cells)} | {_steps(result, runs)} | {1000 * median(map(_per_step, runs)):.2f} |"


def _steps(result: Results, runs: Runs) -> str:
    reached = [run["to_target"] for run in runs if any(value >= result.study.target for _, value in run["curve"])]
    if not reached:
        return "never"
    return f"{median(reached):.4g}" + (f" ({len(reached)} of {len(runs)} runs)" if len(reached) < len(runs) else "")


def _folding(result: Results) -> list[str]:
    rows = ["| folded | weights | outputs | parameters | CPU ms a call |", "| --- | ---: | --- | ---: | ---: |"]
    for variant, each in result.data["folding"].items():
        if each["weights"]:
            (before, after), (slow, fast) = each["parameters"], each["milliseconds"]
            same = "the same bits" if each["equal"] else "other bits"
            rows.append(
                f"| `{variant}` | {each['weights']} | {same} | {before} -> {after} | {slow:.3g} -> {fast:.3g} |"
            )
    return [*rows, ""]


HEAD = """\
# Evidence

What weight normalization is said to do, tried on small models with several seeds. Nothing here is tuned for one
variant: all have the same learning rates to choose from, the same data in the same order, and the same number of
steps. A refuted claim is a result as good as any. The models are small, and what holds for them need not hold for
large ones.

`python examples/evidence/everything.py` trains everything anew and writes this page; `pip install -e '.[examples]'`
brings what it needs. It was made with torch {torch} on two cores, each training on one thread, and took {minutes}
minutes for {count} studies. Times are CPU times.

**The rules.** At each setting, each variant gets the learning rate with the best mean final quality over two seeds
that count for nothing else; they look at the same held-out data. It is then trained with the seeds of the report. A
claim compares two variants seed by seed; its interval is Student's of the mean difference, at 95 %, and not corrected
for the number of claims. Above zero it is **confirmed**, below zero **refuted**, else **undecided**. For ratios,
"above zero" reads "below 1x". Sensitivity is a loss: what the quality is less than that of the same variant at the
default; so a variant that is poor there has little to lose. A run that diverges has the worst quality, and one that
never reaches the target counts with all of its steps.
"""


#: written by a person who looked at the results that are committed; look again when they change
READING = """
## What to make of it

- **By itself, weight norm is no shortcut here.** A converted network starts as the plain one and mostly trains as it
  does: of the comparisons of the two, most are undecided, and as many are against it as for it. The LSTM takes more
  steps to the target with it. Where the weights start too large it loses less in two nets.
- **Data-dependent initialization is what changes much**: a third of the steps on digits, half of them in the
  autoencoder, which also gets better. It is not always good: the vocoder is worse with it, whose own initialization
  fits.
- **Batch norm is better where a batch has enough to average**, on digits even with one image, over its positions. In
  the autoencoder with batches of two it is the worst of all.
- **Spectral norm keeps the adversarial pair together** with a momentum that the plain one does not bear.
- **Undecided**: whether a step is cheaper than with batch norm (the difference is within the noise), Q-learning
  (games differ more than networks do), and sigma reparam and unit norm in a transformer this small, which needs
  neither.
"""


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--no-figures", action="store_true", help="write the page only")
    given = parser.parse_args()
    names = [name for name in STUDIES if (given.results / f"{name}.json").exists()]
    found = [Results(import_module(name).STUDY, given.results) for name in names]
    given.page.write_text(page(found), encoding="utf-8")
    if not given.no_figures:
        from figures import draw

        for each in found:
            draw(each, given.results / f"{each.study.name}.png")
    print(f"{given.page}: {len(names)} studies")


if __name__ == "__main__":
    main()
