"""Fuse the batch norms of every family of timm, beside torch's own fuse, and the gains of transformers' models.

``python -m tests.zoo.fusing`` writes ``docs/fusing.md``.
"""

from __future__ import annotations

import copy
import importlib.metadata
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import wnconvert
from tests.zoo.check import Case, Inputs
from tests.zoo.timm_models import cases
from wnconvert.fusing.measuring import measure
from wnconvert.report import Report

PAGE = Path(__file__).parents[2] / "docs" / "fusing.md"

INTRODUCTION = """\
# Fused normalizations of other packages' models

`python -m tests.zoo.fusing` writes this page; `python -m pytest -m zoo tests/zoo/test_fusing.py` runs the same checks.
All models have random weights, and their norms random statistics, gains and biases. They run in float32 on one CPU
thread.

**norms** are those that the model has, **fused** those that `wnconvert.fuse(model, example_inputs=...)` moved into the
layers beside them, **left** the others, with the reasons. An error is `norm(y - exact) / norm(exact)`, where `exact` is
what the model as it was computes in float64: of the model as it was (**unfused**), of the fused model (**fused**), and
of what `torch.fx.experimental.optimization.fuse` makes of it (**torch's**), with the number of norms that it leaves. A
dash says that it cannot trace the model.

What stays, stays for one of these reasons: a norm before an activation has no layer behind it; one whose value or whose
input is read elsewhere too (a residual, most often) would change that; a shift cannot move in front of zeros.
"""
HEAD = """\
| model | norms | fused | left | unfused | fused | torch's |
| --- | ---: | ---: | --- | ---: | ---: | --- |
"""


@dataclass(frozen=True)
class Row:
    """What came of one model.

    Attributes:
        norms: how many it has.
        report: of the fuse; None where nothing was fused.
        torchs: error of torch's fuse and how many norms it leaves; None where it cannot trace the model.
    """

    norms: int
    report: Report | None
    torchs: tuple[float, int] | None = None


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return the batch norms of a model."""
    return [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


def with_batch_norm() -> Iterator[tuple[Case, nn.Module, Inputs]]:
    """Yield the members of timm's families that have batch norms, stirred."""
    for case in cases():
        torch.manual_seed(0)
        model, inputs = case.build()
        if norms := batch_norms(model.eval()):
            for norm in norms:
                for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
                    if tensor.is_floating_point():
                        tensor.data.uniform_(0.8, 1.2) if name.endswith(("weight", "var")) else tensor.data.normal_(
                            0, 0.1
                        )
            yield case, model, inputs


def check(model: nn.Module, inputs: Inputs) -> Row:
    """Fuse a copy of a model and compare; see that the model itself is as it was.

    Raises:
        AssertionError: a norm is in the report neither as fused nor as left, or the model changed.
    """
    args, _ = inputs
    norms, before = batch_norms(model), copy.deepcopy(model.state_dict())
    try:
        fused, report = wnconvert.fuse(model, ["batch_norm"], example_inputs=args)
    except wnconvert.NothingToConvertError:
        return Row(len(norms), None, torchs(model, inputs))
    assert type(fused) is type(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    named = {entry.fqn for entry in (*report.fused, *report.skipped)}
    unnamed = [name for name, module in model.named_modules() if module in norms and name not in named]
    assert not unnamed, f"norms without a word: {unnamed}"
    assert len(batch_norms(fused)) == len(norms) - len({entry.fqn for entry in report.fused})
    return Row(len(norms), report, torchs(model, inputs))


def torchs(model: nn.Module, inputs: Inputs) -> tuple[float, int] | None:
    """Return how far torch's fuse is from float64, and how many norms it leaves; None where it fails."""
    from torch.fx.experimental.optimization import fuse as torch_fuse  # torch 2.13 warns when it is imported

    try:
        made = torch_fuse(model)
        modules = dict(made.named_modules())
        left = sum(
            node.target is F.batch_norm or modules.get(node.target) in batch_norms(made) for node in made.graph.nodes
        )
        return measure(model, made, inputs[0]).fused, left
    except Exception:  # noqa: BLE001 (it traces the code of any model)
        return None


def row(name: str, found: Row) -> str:
    """Return a line of the table."""
    other = "-" if found.torchs is None else f"{found.torchs[0]:.1e}, {found.torchs[1]} left"
    if found.report is None or found.report.measured is None:
        return f"| {name} | {found.norms} | 0 | all | | | {other} |"
    counts = Counter(entry.reason.why.name.lower().replace("_", " ") for entry in found.report.skipped)
    left = ", ".join(f"{count} {why}" for why, count in counts.most_common())
    measured, fused = found.report.measured, len({entry.fqn for entry in found.report.fused})
    return f"| {name} | {found.norms} | {fused} | {left} | {measured.unfused:.1e} | {measured.fused:.1e} | {other} |"


def main() -> None:
    """Write the page."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows, found = [], []
    for case, model, inputs in with_batch_norm():
        found.append(check(model, inputs))
        rows.append(row(f"{case.family}: {case.name}", found[-1]).replace("|  |", "| |"))
        print(rows[-1], flush=True)
    norms = sum(each.norms for each in found)
    fused = sum(len({entry.fqn for entry in each.report.fused}) for each in found if each.report)
    unfused = [each.report.measured.unfused if each.report and each.report.measured else 1e-6 for each in found]
    worse = [each for each, own in zip(found, unfused, strict=True) if each.torchs and each.torchs[0] > 100 * own]
    traced = sum(each.torchs is not None for each in found)
    left = sum(each.torchs[1] for each in found if each.torchs)
    summary = (
        f"\n## timm: one small member of every family that has batch norms\n\n{fused} of {norms} batch norms of "
        f"{len(found)} families are fused. torch's fuse traces {traced} of them, leaves {left} norms there, and gives "
        f"another function in {len(worse)}.\n"
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm"))
    text = f"{INTRODUCTION}\nMade with {versions}.\n{summary}\n{HEAD}" + "\n".join(rows) + "\n"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
