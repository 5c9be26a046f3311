"""Check every model of the zoo and write ``docs/zoo.md``: ``python -m tests.zoo.generate``."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import torch

from tests.zoo.cases import GROUPS, cases
from tests.zoo.check import Case, Result, check

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"

INTRODUCTION = """\
# Zoo

Models of other packages, converted forth and back. `python -m tests.zoo.generate` writes this page;
`python -m pytest -m zoo` runs the same checks. All models have random weights, none of them zero, and run on one CPU
thread.

For each model, **by default**, so in place:

- The weights that it came with in normalized form are folded first; their number stands under **folded**. Outputs are
  bit-identical, no norm is left, a second fold finds nothing, and the class is that of the model. A model that carries
  none is returned as it was.
- `wnconvert.apply` gives every weight weight normalization. Outputs in evaluation mode are bit-identical.
- One step in **training mode**: with the same seed, outputs and buffers are bit-identical to those of the model, and
  the gradients of g and v are what the formula makes of the gradient that the weight gets in the model; all others are
  equal. Then again in evaluation mode: outputs are bit-identical.
- `wnconvert.fold` gives the same keys in the same order with the same bits, and equal outputs.
- Every floating parameter of rank 2 and up, counted without the help of wnconvert, is in the report as converted or as
  skipped, and never as both.
- The original has the same classes, attributes, hooks, bits and outputs as before.

Then **as a graph**, with `how="graph"`, of the model in training mode as it is built: the graph is *whole*, or has
*opaque regions* (modules and helper functions that it calls and does not look into, which are named), or is *refused*
with the reason. Where there is one, the step in training mode and the evaluation after it are compared in the same way.

**weights** are the floating parameters of rank 2 and up, **done** those converted by default. **ops** are the weights
that enter a weighted op, of whatever rank.

Some members are cut to two layers or get a smaller input, see `tests/zoo/timm_models.py`.

One limit that none of these models meets, but a batch-first LSTM with projections before a linear layer does: where the
input of a linear layer is not contiguous, torch chooses its kernel by the weight's `requires_grad`, even under
`torch.no_grad()`. There a weight that a graph or a parametrization of torch composes has the bits of the plain one, but
the output may differ in the last bit. With gradients enabled, with frozen parameters, and with weights that wnconvert
converts in place, it does not.
"""

TITLES = {
    "timm": "timm: one small member of every family",
    "transformers": "transformers: every model whose code uses weight norm, at tiny configurations",
    "other": "Text, vision and recurrent models",
}

HEAD = """\
| model | weights | ops | done | skipped | folded | by default | training | graph | not looked into, or why not | s |
| --- | ---: | ---: | ---: | --- | ---: | :---: | :---: | :---: | --- | ---: |
"""
GRAPHS = ("whole", "opaque regions", "refused")


def main() -> int:
    """Run all checks, write the page, and return the number of failures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tables: dict[str, list[str]] = defaultdict(list)
    results: dict[str, list[Result | None]] = defaultdict(list)
    for case in cases():
        try:
            result = check(case)
            row = _row(case, result)
        except Exception as error:  # noqa: BLE001 - models of other packages may raise anything
            result = None
            row = f"| {_name(case)} | | | | FAILED: {type(error).__name__}: {_first_line(error)} | | | | | | |"
        results[case.group].append(result)
        tables[case.group].append(row)
        print(row, flush=True)
    print("\n".join(_summary(group) for group in results.values()))
    missing = [group for group in GROUPS if group not in tables]
    if missing:
        sys.exit(f"{PAGE.name} is not written: nothing is installed for {', '.join(missing)}")
    every = [result for group in results.values() for result in group]
    sections = [
        f"\n## {TITLES[group]}\n\n{_summary(results[group])}\n\n{HEAD}" + "\n".join(rows)
        for group, rows in tables.items()
    ]
    text = "\n".join([INTRODUCTION, f"{_summary(every)} {_versions()}", *sections])
    PAGE.write_text(text + "\n", encoding="utf-8")
    return every.count(None)


def _summary(results: list[Result | None]) -> str:
    """Say how many pass, and what became of the graphs."""
    passed = [result for result in results if result is not None]
    counts = Counter(result.graph for result in passed)
    graphs = ", ".join(f"{counts[kind]} {kind}" for kind in GRAPHS)
    return f"{len(passed)} of {len(results)} pass by default. Graphs: {graphs}."


def _versions() -> str:
    packages = ("torch", "torchvision", "timm", "transformers")
    return "Made with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + "."


def _row(case: Case, result: Result) -> str:
    skipped = "; ".join(f"{count} x {reason}" for reason, count in result.skipped.most_common())
    cells = [
        _name(case),
        str(result.weights),
        str(result.ops),
        str(result.converted),
        skipped,
        str(result.folded or ""),
        "equal",
        f"the model raises {_short(result.untrained)}" if result.untrained else "equal",
        result.graph,
        ", ".join(result.opaque) or "; ".join(map(_short, result.reasons if result.graph == "refused" else ())),
        f"{result.seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _short(text: str) -> str:
    """Return what went wrong, without the way out."""
    return text.partition("; ")[0].replace("|", "\\|")


def _name(case: Case) -> str:
    return case.name if case.name.lower() == case.family else f"{case.family}: {case.name}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(min(main(), 1))
