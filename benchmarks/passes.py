"""Conversions of large models, against torch's own way to add and remove weight norm layer by layer.

Compared are the conversions of modules: of weights that are known, with the search for them, and with the copy; what
the search costs beside ``torch.fx.symbolic_trace``; and the way over a graph: tracing, which is done in all
circumstances, the passes on a traced model, and of each the part that is torch.fx's own code generation.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace
from torch.nn.utils import parametrize

import wnconvert
from models import WEIGHTED, conv_stack, linear_stack, register
from paired import Race, Side, machine, parse, parser, table
from wnconvert.graph.copying import clone
from wnconvert.modules.classes import LiveWeight
from wnconvert.modules.finding import find_weights
from wnconvert.modules.inplace import apply_in_place, fold_in_place
from wnconvert.passes.apply import ApplyPass
from wnconvert.passes.fold import FoldPass
from wnconvert.schemes.weight_norm import WeightNorm
from wnconvert.selection import Selection
from wnconvert.tracing.tracing import find_graph, trace


@dataclass(frozen=True)
class Kind:
    """A kind of model, and at which numbers of layers it is converted, by default and with ``--quick``."""

    title: str
    build: Callable[[int], nn.Module]
    layers: tuple[int, int]
    quick: tuple[int, int]


KINDS = {
    "linear": Kind("Linear(8, 8)", linear_stack, (100, 1_000), (20, 200)),
    "conv": Kind("residual blocks of Conv2d(64, 64, 3) and BatchNorm2d", conv_stack, (50, 500), (10, 100)),
}
#: what is timed against which of torch's ways, and the highest ratio that was asked for
COMPARED = {
    "apply to modules": ("register", 0.5),
    "apply in place": ("register", 1.5),
    "apply": ("register", None),
    "fold modules": ("remove", 1.0),
    "fold in place": ("remove", None),
    "find_graph": ("symbolic_trace", None),
    "trace": ("symbolic_trace", None),
    "ApplyPass": ("register", None),
    "FoldPass": ("remove", None),
}
PEERS = ("register", "remove", "symbolic_trace")
#: what is timed at the first number of layers alone, to see where the time goes
PARTS = {
    "copy": "register",
    "find_weights": "register",
    "recompile, traced": "register",
    "recompile, applied": "register",
    "python_code, applied": "register",
    "recompile, folded": "remove",
}
#: ten times the layers cost at most twelve times as much
GROWTH = 1.2
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def remove(model: nn.Module) -> None:
    """Remove torch's own weight norm from every layer."""
    for module in list(model.modules()):
        if isinstance(module, WEIGHTED):
            parametrize.remove_parametrizations(module, "weight")


def normalize(model: nn.Module) -> nn.Module:
    """Give every layer weight norm in place."""
    return wnconvert.apply(model, inplace=True).model


def sides(build: Callable[[int], nn.Module], layers: int) -> dict[str, Side]:
    """Return all that is timed on a model of so many layers."""

    def plain() -> nn.Module:
        return build(layers)

    def traced() -> GraphModule:
        return trace(plain())

    def applied() -> GraphModule:
        return wnconvert.apply(traced(), inplace=True).model

    def folded() -> GraphModule:
        return wnconvert.fold(applied(), inplace=True).model

    def code(graph_module: GraphModule) -> None:
        graph_module.graph.python_code("self")

    def searched() -> tuple[nn.Module, list[LiveWeight]]:
        model = plain()
        return model, find_weights(model).weights

    def known(state: tuple[nn.Module, list[LiveWeight]]) -> None:
        model, weights = state
        apply_in_place(model, WeightNorm(), 0, Selection(), weights=weights)

    ways: dict[str, tuple[Callable[..., object], Callable[[], Any]]] = {
        "register": (register, plain),
        "apply": (wnconvert.apply, plain),
        "apply in place": (normalize, plain),
        "apply to modules": (known, searched),
        "copy": (clone, plain),
        "find_weights": (find_weights, plain),
        "symbolic_trace": (symbolic_trace, plain),
        "find_graph": (find_graph, plain),
        "trace": (trace, plain),
        "ApplyPass": (lambda model: ApplyPass().call(model), traced),
        "recompile, traced": (lambda model: model.recompile(), traced),
        "recompile, applied": (lambda model: model.recompile(), applied),
        "python_code, applied": (code, applied),
        "remove": (remove, lambda: register(plain())),
        "FoldPass": (lambda model: FoldPass().call(model), applied),
        "recompile, folded": (lambda model: model.recompile(), folded),
        "fold modules": (lambda model: fold_in_place(model, Selection()), lambda: normalize(plain())),
        "fold in place": (lambda model: wnconvert.fold(model, inplace=True), lambda: normalize(plain())),
    }
    return {name: Side(run, setup, layers) for name, (run, setup) in ways.items()}


def compare(kind: Kind, layers: tuple[int, ...], rounds: int) -> None:
    """Print the tables of one kind of model."""
    named = {
        f"{name} {count}": side
        for count in layers
        for name, side in sides(kind.build, count).items()
        if count == layers[0] or name in COMPARED or name in PEERS
    }
    race = Race(named, rounds)

    def row(name: str, against: str, count: int, target: float | None = None) -> str:
        return race.row(f"{name}, {count} layers", f"{name} {count}", f"{against} {count}", target)

    rows = [row(name, peer, count, target) for count in layers for name, (peer, target) in COMPARED.items()]
    table(f"{kind.title}; time per layer", rows)
    if len(layers) > 1:
        few, many = layers[0], layers[-1]
        rows = [
            race.row(f"{name}, {many} layers", f"{name} {many}", f"{name} {few}", target, total=True)
            for names, target in ((COMPARED, GROWTH * many / few), (PEERS, None))
            for name in names
        ]
        table(f"{kind.title}; time of the whole", rows)
    table(f"{kind.title}; parts, time per layer", [row(name, peer, layers[0]) for name, peer in PARTS.items()])


def profile(kind: Kind, layers: int) -> None:
    """Print which functions the time of each pass is spent in."""
    for name in (*COMPARED, *PEERS):
        side = sides(kind.build, layers)[name]
        side.run(side.setup())  # what only the first call does is no part of the time per layer
        state = side.setup()
        profiler = cProfile.Profile()
        profiler.runcall(side.run, state)
        print(f"\n### {name}, {layers} layers\n")
        pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(20)


def peak_memory(kind: Kind, layers: int, name: str) -> None:
    """Print how far the resident memory of this process rises while one side runs, in MiB."""
    side = sides(kind.build, layers)[name]
    state = side.setup()
    CLEAR_REFS.write_text("5")  # what follows counts the peak from here
    before = _status("VmRSS")
    result = side.run(state)
    print(max(_status("VmHWM") - before, 0) / 1024)
    del result


def compare_memory(name: str, kind: Kind, layers: int) -> None:
    """Print the peak memory of each side, each measured in a process of its own."""
    if not CLEAR_REFS.exists():
        print("peak memory is only measured on Linux", file=sys.stderr)
        return
    weights = sum(tensor.nbytes for tensor in kind.build(layers).parameters()) / 2**20
    # every tensor of its own pages, so that freed memory is not counted as used
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "32768"}
    rows = []
    for action in ("register", "apply", "apply in place", "ApplyPass", "remove", "fold modules", "FoldPass"):
        command = [sys.executable, __file__, "--model", name, "--layers", str(layers), "--peak-memory-of", action]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        rise = float(done.stdout.splitlines()[-1])
        rows.append(f"| {action} | {rise:.0f} MiB | {1024 * rise / layers:.0f} KiB |")
    title = f"{kind.title}, {layers} layers of {weights:.0f} MiB: rise of the resident memory at its peak"
    table(title, rows, "| what | rise | per layer |\n|---|---|---|")


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=7, quick=3)
    arguments.add_argument("--model", nargs="+", choices=KINDS, default=list(KINDS), help="which kinds of layers")
    arguments.add_argument("--layers", nargs="+", type=int, help="numbers of layers, least first")
    arguments.add_argument("--profile", action="store_true", help="print profiles instead of comparing")
    arguments.add_argument("--peak-memory-of", metavar="SIDE", help="print the peak memory of one side, in MiB")
    options = parse(arguments)
    for name in options.model:
        kind = KINDS[name]
        layers = tuple(options.layers or (kind.quick if options.quick else kind.layers))
        if options.peak_memory_of:
            peak_memory(kind, layers[-1], options.peak_memory_of)
        elif options.profile:
            profile(kind, layers[0])
        else:
            print(machine())
            compare(kind, layers, options.rounds)
            compare_memory(name, kind, layers[-1])


def _status(field: str) -> int:
    """Return a size from the status of this process, in KiB."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
