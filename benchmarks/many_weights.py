"""Cost per weight of converting files with many small weights: ``python benchmarks/many_weights.py``.

The first tables are of whole commands, each a process of its own, against `by_hand`: a script as projects write it for
themselves, which checks nothing; and one that reads again what it wrote, as the commands do. The others are of what
happens within a process: ten times the weights should cost ten times as much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import by_hand
from paired import Race, Side, machine, parse, parser, table
from wnconvert import checkpoint
from wnconvert.checkpoint import verify_apply, verify_content

ROOT = Path(__file__).resolve().parent.parent
#: from the checkout, so that nothing need be installed; one thread, as here
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli"))), "OMP_NUM_THREADS": "1"}
COMMAND = (sys.executable, "-c", "from wnconvert_cli.main import app; app()")
HAND = (sys.executable, str(ROOT / "benchmarks" / "by_hand.py"))
SIZE = 8
WRITING = ("fold", "apply", "migrate")
TASKS = (*WRITING, "verify", "inspect")
#: a command may take so many times what the script takes.
WHOLE, WHOLE_APPLY = 1.0, 1.5
#: ten times the weights may cost so many times as much: some rows of noise above ten.
LINEAR = 12.0


def main() -> None:
    """Run the benchmark and print its tables in markdown."""
    options = parse(parser(__doc__, rounds=5, quick=1))
    small, large = (100, 1000) if options.quick else (1000, 10000)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("pt", "safetensors"):
            programs = whole(Path(folder), 2 * large, suffix)
            race = Race(
                {name: Side(lambda _, line=line: start(line)) for name, line in programs.items()}, options.rounds
            )
            rows = []
            for name in TASKS:
                target = WHOLE_APPLY if name == "apply" else WHOLE
                rows.append(race.row(f"{name}, {suffix}", name, f"{name} by hand", target))
                if name in WRITING:
                    rows.append(race.row(f"{name}, {suffix}", name, f"{name} by hand, checked", target))
            table(f"Whole commands on {2 * large} weights, {suffix}", rows)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            f"{name} {count}": Side(run, units=count)
            for count in (small, large)
            for name, run in commands(Path(folder), count).items()
        }
        race = Race(sides, options.rounds)
    names = list(commands(Path(folder), 0))
    rows = [race.row(f"{name}, {large} weights", f"{name} {large}", f"by hand {large}") for name in names[1:]]
    table("Per weight, against folding by hand", rows)
    rows = [race.row(name, f"{name} {large}", f"{name} {small}", LINEAR, total=True) for name in names]
    table(f"{large} weights against {small}", rows)


def whole(folder: Path, count: int, suffix: str) -> dict[str, tuple[str, ...]]:
    """Return command lines by name, on files of so many weights that are made in ``folder``."""
    hook, plain, other, output = (str(folder / f"{name}.{suffix}") for name in ("hook", "plain", "other", "out"))
    (save_file if suffix == "safetensors" else torch.save)(make(count), hook)
    written = ("--force", "--output", output)
    start((*COMMAND, "fold", hook, "--output", plain))
    start((*COMMAND, "migrate", hook, "--to", "parametrization", "--output", other))
    inputs = {name: plain if name == "apply" else hook for name in WRITING}
    lines = {f"{name} by hand": (*HAND, name, source, output) for name, source in inputs.items()}
    lines |= {f"{name} by hand, checked": (*lines[f"{name} by hand"], "--check") for name in WRITING}
    return lines | {
        "verify by hand": (*HAND, "verify", hook, other),
        "inspect by hand": (*HAND, "inspect", hook),
        "fold": (*COMMAND, "fold", hook, *written),
        "apply": (*COMMAND, "apply", plain, "--scheme", "weight_norm", *written),
        "migrate": (*COMMAND, "migrate", hook, "--to", "parametrization", *written),
        "verify": (*COMMAND, "verify", hook, other),
        "inspect": (*COMMAND, "inspect", hook),
    }


def start(line: tuple[str, ...]) -> None:
    """Run a program in a new process."""
    subprocess.run(line, env=ENVIRONMENT, check=True, capture_output=True)


def commands(folder: Path, count: int) -> dict[str, Callable[[object], object]]:
    """Return what is timed, by name, on files of so many weights that are made in ``folder``."""
    hook, plain, tensors = folder / f"{count}.pt", folder / f"{count}.plain.pt", folder / f"{count}.safetensors"
    parametrized = folder / f"{count}.parametrized.pt"
    if count:
        content = make(count)
        torch.save(content, hook)
        save_file(content, tensors)
        _save(checkpoint.fold(checkpoint.load(hook)), plain, hook)
        _save(checkpoint.migrate(checkpoint.load(hook), "parametrization"), parametrized, hook)
    return {
        "by hand": lambda _: by_hand.by_hand(by_hand.fold, hook, folder / "hand.pt"),
        "fold": lambda _: fold(hook, folder / "out.pt"),
        "fold safetensors": lambda _: fold(tensors, folder / "out.safetensors"),
        "apply": lambda _: apply(plain, folder / "out.pt"),
        "apply --like": lambda _: like(plain, parametrized, folder / "out.pt"),
        "migrate": lambda _: migrate(hook, folder / "out.pt"),
        "verify": lambda _: checkpoint.verify(checkpoint.load(hook), checkpoint.load(parametrized)),
        "inspect": lambda _: checkpoint.inspect(checkpoint.load(hook)),
    }


def make(count: int) -> dict[str, torch.Tensor]:
    """Return a state dict of ``torch.nn.utils.weight_norm``."""
    generator = torch.Generator().manual_seed(0)
    content = {}
    for index in range(count):
        content[f"layers.{index}.bias"] = torch.rand(SIZE, generator=generator)
        content[f"layers.{index}.weight_g"] = torch.rand(SIZE, 1, generator=generator)
        content[f"layers.{index}.weight_v"] = torch.rand(SIZE, SIZE, generator=generator)
    return content


def fold(source: Path, output: Path) -> None:
    """Do what ``wnconvert fold`` does."""
    done = checkpoint.fold(checkpoint.load(source))
    _save(done, output, source, lambda written: verify_content(done.checkpoint, written))


def apply(source: Path, output: Path) -> None:
    """Do what ``wnconvert apply`` does."""
    before = checkpoint.load(source)
    done = checkpoint.apply(before)
    _save(done, output, source, lambda written: verify_apply(before, done, written))


def like(source: Path, reference: Path, output: Path) -> None:
    """Do what ``wnconvert apply --like`` does."""
    before = checkpoint.load(source)
    done = checkpoint.apply_like(before, checkpoint.load(reference))
    _save(done, output, source, lambda written: verify_content(done.checkpoint, written))


def migrate(source: Path, output: Path) -> None:
    """Do what ``wnconvert migrate`` does."""
    done = checkpoint.migrate(checkpoint.load(source), "parametrization")
    _save(done, output, source, lambda written: verify_content(done.checkpoint, written))


def _save(
    done: checkpoint.Conversion,
    output: Path,
    source: Path,
    verify: Callable[[checkpoint.Checkpoint], None] = lambda written: None,
) -> None:
    checkpoint.save(done.checkpoint, output, source=source, force=True, verify=verify)


if __name__ == "__main__":
    main()
