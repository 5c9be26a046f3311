"""Folding a program of many layers, and one of many bytes: time and memory for each.

python benchmarks/exported.py [LAYERS ...] [--gigabyte]
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.utils.parametrizations import weight_norm

import wnconvert


class Layers(nn.Module):
    """Layers that all read the input: so the graph grows, and nothing of what it computes."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(nn.Linear(size, size, bias=False)) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of all outputs."""
        total = x
        for layer in self.layers:
            total = total + layer(x)
        return total


def program(count: int, size: int) -> ExportedProgram:
    """Return the program of so many layers."""
    return torch.export.export(Layers(count, size), (torch.randn(2, size),))


def measured(label: str, exported: ExportedProgram, share: bool) -> None:
    """Fold a program, and tell the processor time and how much the process has grown at most."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    report = wnconvert.fold(exported, inplace=share).report
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    count = len(report.converted)
    print(f"{label}: {count} weights in {seconds:.2f} s, {1e3 * seconds / count:.2f} ms each, {grown:.0f} MB more")


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layers", nargs="*", type=int, default=[100, 1000])
    parser.add_argument("--gigabyte", action="store_true", help="fold 16 layers of 64 MB each as well")
    arguments = parser.parse_args()
    for count in arguments.layers:
        measured(f"{count} layers", program(count, 4), share=False)
    if arguments.gigabyte:
        measured("1 GB", program(16, 4096), share=True)


if __name__ == "__main__":
    main()
