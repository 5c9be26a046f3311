"""Run the fuzzer and say what came of it: ``python -m tests.fuzz COUNT [FIRST]``."""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter

import torch

from tests.fuzz.fuzzing import fuzz


def main(count: int, first: int = 0) -> int:
    """Compare ``count`` models, beginning with the seed ``first``, and return how many differ."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start, counts, different = time.perf_counter(), Counter[str](), 0
    for seed in range(first, first + count):
        try:
            counts += fuzz(seed)
        except AssertionError as error:
            different += 1
            print(f"{error}\n", flush=True)
    for kind, number in sorted(counts.items()):
        print(f"{number:6} {kind}")
    print(f"{count} models, {different} with a difference, {time.perf_counter() - start:.0f} s")
    return different


if __name__ == "__main__":
    sys.exit(min(main(*map(int, sys.argv[1:])), 1))
