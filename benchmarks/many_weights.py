"""Cost per weight of converting files with many small weights: ``python benchmarks/many_weights.py``.

Each side reads a file, converts it, writes the result and verifies it. ``fold by hand`` is what projects write
themselves: `torch.load`, `torch._weight_norm` for each pair of keys, `torch.save`; it checks nothing. Ten times the
weights should cost ten times as much.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from paired import Race, Side, machine, parse, parser, table
from wnconvert import checkpoint
from wnconvert.checkpoint import verify_apply, verify_content
from wnconvert.torch_private import weight_norm

SIZE = 8
#: ten times the weights may cost so many times as much: some rows of noise above ten.
LINEAR = 12.0


def main() -> None:
    """Run the benchmark and print its tables in markdown."""
    options = parse(parser(__doc__, rounds=5, quick=1))
    small, large = (100, 1000) if options.quick else (1000, 10000)
    print(machine())
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
        "by hand": lambda _: by_hand(hook, folder / "hand.pt"),
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


def by_hand(source: Path, output: Path) -> None:
    """Fold as a project's own script does."""
    content = torch.load(source)
    for key in [key for key in content if key.endswith("weight_g")]:
        stem = key.removesuffix("_g")
        content[stem] = weight_norm(content.pop(f"{stem}_v"), content.pop(key), 0)
    torch.save(content, output)


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
