"""Mutations and bombs, tried: ``python -m tests.cli.hostility COUNT [FIRST]`` tries so many mutations.

Without a number it tries the bombs, all or those that are named. A case is its number: the same number gives the same
files and commands.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.checkpoint.bombs import BOMBS
from tests.checkpoint.mutations import Files, mutated, read_files, write_files
from tests.checkpoint.sound import KINDS
from tests.cli.limited import SECONDS, Case, ready, try_all

#: commands for one mutation, and cases that one process tries.
EACH, CHUNK = 2, 40
#: seconds that thousands of tiny weights take besides, see docs/limits.md.
WEIGHTS = 10
#: what every bomb is put through.
COMMANDS = (
    *("inspect in", "inspect in --json", "fold in -o out", "apply in -o out --state-dict", "verify in in"),
    *("apply in -o out --format npz --state-dict", "apply in -o out --format safetensors"),
    *("migrate in -o out --to parametrization", "fold in -o out --format torch_legacy --state-dict"),
)


def samples(folder: Path) -> dict[str, Files]:
    """Return the sound files of each kind."""
    for name, kind in KINDS.items():
        (folder / name).mkdir()
        kind.make(folder / name)
    return {name: read_files(folder / name) for name in KINDS}


def cases(sound: dict[str, Files], first: int, count: int) -> Iterator[Case]:
    """Yield mutations; those of all kinds take turns."""
    names = list(KINDS)
    for number in range(first, first + count):
        rng = random.Random(number)
        name = names[number % len(names)]
        files = mutated(sound[name], rng)
        commands = [each.split() for each in rng.sample(KINDS[name].commands, EACH)]
        yield Case(f"{number} ({name})", partial(write_files, files, Path()), commands)


def fuzz(count: int, first: int = 0, *, told: bool = False) -> list[str]:
    """Try so many mutations; return what is wrong, and tell it meanwhile."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        sound = samples(Path(folder))
        ready()
        for start in range(first, first + count, CHUNK):
            several = list(cases(sound, start, min(CHUNK, first + count - start)))
            found = try_all(several, Path(folder) / "here")
            wrong += found
            if told:
                print(*found, f"{start + len(several)} tried, {len(wrong)} wrong", sep="\n", flush=True)  # noqa: T201
    return wrong


def explode(names: Sequence[str] = (), each: int = len(COMMANDS), *, told: bool = False) -> list[str]:
    """Try the bombs, or some of them; return what is wrong, and tell it meanwhile.

    Args:
        names: which of them; all, where none is named.
        each: how many commands each is put through; they take turns.
        told: print what is wrong at once, and what each took.
    """
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        ready()
        for name in names or BOMBS:
            first = list(BOMBS).index(name)
            commands = [COMMANDS[(first + number) % len(COMMANDS)].split() for number in range(each)]
            before = _used()
            seconds = SECONDS + (WEIGHTS if name.startswith("many ") else 0)
            found = try_all([Case(name, partial(BOMBS[name], Path("in")), commands)], Path(folder) / "here", seconds)
            wrong += found
            if told:
                print(f"{name}: {_used() - before:.1f} s", *found, sep="\n", flush=True)  # noqa: T201
    return wrong


def _used() -> float:
    """Return the processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tell(wrong: list[str]) -> None:
    """Print what is wrong, and how often each thing is."""
    print("\n".join(wrong))  # noqa: T201
    kinds = Counter(line.partition(": ")[2].partition(": ")[2][:60] for line in wrong)
    print(f"{len(wrong)} wrong", *kinds.most_common(20), sep="\n")  # noqa: T201


if __name__ == "__main__":
    if all(each.isdigit() for each in sys.argv[1:3]) and sys.argv[1:]:
        tell(fuzz(*map(int, sys.argv[1:]), told=True))
    else:
        tell(explode(sys.argv[1:], told=True))
