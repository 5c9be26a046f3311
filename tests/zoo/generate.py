"""Check every model of the zoo and write ``docs/zoo.md``: ``python -m tests.zoo.generate``."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import torch

from tests.zoo.cases import GROUPS, cases
from tests.zoo.check import Case, Result, check

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"

INTRODUCTION = """\
# Zoo

Models of other packages, converted forth and back. `python -m tests.zoo.generate` writes this page;
`python -m pytest -m zoo` runs the same checks. All models have random weights, none of them zero, and run in
evaluation mode under `torch.no_grad()`, on one CPU thread.

For each model, with `wnconvert.apply` and `wnconvert.fold` at their defaults:

- **fold exact**: the weights that the model came with in normalized form are folded first, and their number stands
  here. Outputs are bit-identical, no norm is left, and a second fold finds nothing. A model that carries none is
  returned as it was.
- **apply exact**: every weight is given weight normalization. Outputs are bit-identical.
- **keys equal**: fold after apply gives the same keys in the same order with the same bits, and equal outputs.
- Every floating parameter of rank 2 and up, counted without the help of wnconvert, is in the report as converted or as
  skipped, and never as both.
- The original has the same classes, attributes, hooks, bits and outputs as before.

**weights** are those parameters. **ops** are the weights that enter a weighted op, of whatever rank. Some are converted
in the **graph**; those inside modules that the graph does not look into, and those of models that have no single graph,
**in place**. What the graph does not look into is named under **opaque**: classes of modules, and helper functions.

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
| model | weights | ops | graph / in place | opaque | skipped | apply exact | fold exact | keys equal | s |
| --- | ---: | ---: | ---: | --- | --- | :---: | :---: | :---: | ---: |
"""


def main() -> int:
    """Run all checks, write the page, and return the number of failures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tables: dict[str, list[str]] = defaultdict(list)
    failures: dict[str, int] = defaultdict(int)
    for case in cases():
        try:
            row = _row(case, check(case))
        except Exception as error:  # noqa: BLE001 - models of other packages may raise anything
            failures[case.group] += 1
            row = f"| {_name(case)} | | | | | FAILED: {type(error).__name__}: {_first_line(error)} | | | | |"
        tables[case.group].append(row)
        print(row, flush=True)
    missing = [group for group in GROUPS if group not in tables]
    if missing:
        sys.exit(f"{PAGE.name} is not written: nothing is installed for {', '.join(missing)}")
    PAGE.write_text("\n".join([INTRODUCTION, _versions(), *_sections(tables, failures)]) + "\n", encoding="utf-8")
    return sum(failures.values())


def _sections(tables: dict[str, list[str]], failures: dict[str, int]) -> list[str]:
    sections = []
    for group, rows in tables.items():
        passed = f"{len(rows) - failures[group]} of {len(rows)} pass."
        sections.append(f"\n## {TITLES[group]}\n\n{passed}\n\n{HEAD}" + "\n".join(rows))
    return sections


def _versions() -> str:
    packages = ("torch", "torchvision", "timm", "transformers")
    return "Made with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + "."


def _row(case: Case, result: Result) -> str:
    skipped = "; ".join(f"{count} x {reason}" for reason, count in result.skipped.most_common())
    cells = [
        _name(case),
        str(result.weights),
        str(result.ops),
        f"{result.graph} / {result.in_place}",
        ", ".join(result.opaque),
        skipped,
        "yes",
        f"yes, {result.folded}" if result.folded else "yes",
        "yes",
        f"{result.seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _name(case: Case) -> str:
    return case.name if case.name.lower() == case.family else f"{case.family}: {case.name}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(min(main(), 1))
