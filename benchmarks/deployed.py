"""What is deployed, before and after: ``python benchmarks/deployed.py``.

A vocoder under torch's weight norm is written as it is and folded, for each target of ``wnconvert export`` that is
installed here, and run as whoever deploys it runs it. Then a whole ResNet with batch norms is folded and fused by the
command line, and run before and after.

- bytes: of the file; nodes, delegates, layers not delegated: what the target counts;
- write, load, run: processor time on one thread; of a run the median of the rounds, files in turns.
"""

from __future__ import annotations

import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrizations

import wnconvert
from models import WEIGHTED, resnet, vocoder
from paired import parse, parser, plain_table
from wnconvert.deploying.target import TARGETS
from wnconvert.errors import WnconvertError

COLUMNS = ("target", "file", "bytes", "counts", "write", "load", "run")
#: inputs of the vocoder: so few steps that ExecuTorch's portable kernels end within a minute
STEPS = 50


def main() -> None:
    """Write, run, and print the tables in markdown."""
    given = parse(parser(__doc__, rounds=15, quick=3))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in TARGETS for row in _target(name, Path(folder), given.rounds)]
        plain_table(COLUMNS, rows)
        plain_table(("whole model", "batch norms", "bytes", "fold --fuse", "run"), _fused(Path(folder), given.rounds))


def _normalized() -> nn.Module:
    torch.manual_seed(0)
    model = vocoder().eval()
    for module in model.modules():
        if isinstance(module, WEIGHTED):
            parametrizations.weight_norm(module)
    return model


def _target(name: str, folder: Path, rounds: int) -> list[list[str]]:
    """Return a row for the normalized and one for the folded model."""
    target = TARGETS.get(name)()
    try:
        target.require()
    except WnconvertError as error:
        return [[target.title, str(error), *[""] * (len(COLUMNS) - 2)]]
    x = torch.randn(1, 80, STEPS)
    normalized = torch.export.export(_normalized(), (x,))
    programs = {"normalized": normalized, "folded": wnconvert.fold(normalized).program}
    rows, runs = {}, {}
    for kind, program in programs.items():
        path = folder / f"{kind}{target.suffix}"
        began = time.process_time(), _children()
        written = target.write(program, path, {})
        write = time.process_time() - began[0] + _children() - began[1]
        began_loading = time.process_time()
        run = target.load(path, program)
        run([x])
        load = time.process_time() - began_loading
        counts = ", ".join(f"{value} {what}" for what, value in written.counts.items())
        size = sum(each.stat().st_size for each in folder.glob(f"{path.name}*"))
        rows[kind] = [target.title, kind, f"{size:,}", counts, f"{write:.1f} s", f"{1000 * load:.0f} ms"]
        runs[kind] = lambda run=run: run([x])
    return [[*rows[kind], took] for kind, took in _medians(runs, rounds).items()]


def _children() -> float:
    """Return the processor time of processes that ended: compilers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, str]:
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, run in runs.items():
            began = time.process_time()
            run()
            times[kind].append(time.process_time() - began)
    return {kind: f"{1000 * statistics.median(each):.2f} ms" for kind, each in times.items()}


def _fused(folder: Path, rounds: int) -> list[list[str]]:
    """Fold and fuse a whole model on the command line."""
    torch.manual_seed(0)
    model = resnet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    source, output = folder / "resnet.pt", folder / "resnet.fused.pt"
    torch.save(model.eval(), source)
    command = [sys.executable, "-m", "wnconvert", "fold", source, "--trust", "--fuse", "all", "-o", output, "--quiet"]
    began = _children()
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
    took = _children() - began
    fused = torch.load(output, weights_only=False)
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(fused(x), model(x))
    models: dict[str, tuple[nn.Module, Path, str]] = {
        "as it was": (model, source, ""),
        "fused": (fused, output, f"{took:.1f} s, torch's import included"),
    }
    times = _medians({kind: lambda each=each: each(x) for kind, (each, *_) in models.items()}, rounds)
    return [
        [f"ResNet, {kind}", str(_norms(each)), f"{path.stat().st_size:,}", said, times[kind]]
        for kind, (each, path, said) in models.items()
    ]


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


if __name__ == "__main__":
    main()
