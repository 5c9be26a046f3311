"""Time and memory of converting large files, beside copies of the same file: ``python benchmarks/files.py``.

Half of the weights are normalized. Each figure is the median of some rounds, in each of which everything is run one
after the other:

- ``cp``: a copy within the page cache, neither on the disk nor compared;
- safe copy: ``cp``, ``sync`` and ``cmp``, which promises of a copy what wnconvert promises of a conversion;
- ``import``: starting an interpreter that imports torch, part of every ``wall``;
- ``wall``: the whole process of wnconvert.

The memory is the highest anonymous memory (RssAnon) that was seen, less that of an interpreter that has imported torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MB = 1_000_000
#: 64 MiB in float32.
SHAPE = (4096, 4096)
RUN = "import sys; from wnconvert_cli.main import app; app(sys.argv[1:])"
IMPORT = "import torch, numpy, safetensors"
IDLE = f"{IMPORT}, time; torch.ones(9) @ torch.ones(9); time.sleep(0.3)"
COLUMNS = ("file", "command", "cp", "safe copy", "import", "wall", "wall / cp", "(wall - import) / safe copy", "memory")


def main() -> None:
    """Make the files, convert them, and print the table in markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", type=float, nargs="+", default=[1, 4], metavar="GB")
    arguments.add_argument("--formats", nargs="+", default=["safetensors", "pt"])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    arguments.add_argument("--quick", action="store_true", help="one small file of each kind, one round")
    arguments.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    options = arguments.parse_args()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.quick:
        options.sizes, options.rounds = [0.2], 1
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        _, idle = measure([sys.executable, "-c", IDLE])
        limit = (2 * SHAPE[0] * SHAPE[1] * 4 + 128 * MB) / MB
        print(f"an interpreter with torch: {idle / MB:.0f} MB; two tensors and 128 MB: {limit:.0f} MB\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for size in options.sizes:
            for kind in options.formats:
                rows(Path(folder), kind, size, options.rounds, idle)


def rows(folder: Path, kind: str, size: float, rounds: int, idle: int) -> None:
    """Print the rows of one file."""
    plain, normalized = folder / f"plain.{kind}", folder / f"normalized.{kind}"
    subprocess.run([sys.executable, __file__, "make", str(plain), str(size)], check=True)
    for command, source, output in (("apply", plain, normalized), ("fold", normalized, folder / f"folded.{kind}")):
        choice = ["--include", "normalized.*"] if command == "apply" else []
        convert = [sys.executable, "-c", RUN, command, str(source), "-o", str(output), "-q", "--force", *choice]
        seen = []
        for _ in range(rounds):
            copied = copy(source)
            started, _ = measure([sys.executable, "-c", IMPORT])
            seen.append((*copied, started, *measure(convert)))
        cp, safe, started, wall, memory = (statistics.median(column) for column in zip(*seen, strict=True))
        times = [f"{seconds:.2f} s" for seconds in (cp, safe, started, wall)]
        ratios = [f"{wall / cp:.1f}", f"{(wall - started) / safe:.2f}"]
        cells = [f"{size:g} GB {kind}", command, *times, *ratios, f"{(memory - idle) / MB:.0f} MB"]
        print(f"| {' | '.join(cells)} |", flush=True)
    for path in folder.iterdir():
        path.unlink()


def copy(path: Path) -> tuple[float, float]:
    """Return how long ``cp`` takes, and how long until the copy is on the disk as well and known to be one."""
    target, start = path.with_name("copy"), time.perf_counter()
    subprocess.run(["cp", str(path), str(target)], check=True)
    alone = time.perf_counter() - start
    subprocess.run(["sync", str(target)], check=True)
    subprocess.run(["cmp", str(path), str(target)], check=True)
    safe = time.perf_counter() - start
    target.unlink()
    return alone, safe


def measure(command: Sequence[str]) -> tuple[float, int]:
    """Run a command; return its wall time in seconds, and the most anonymous memory it had in bytes."""
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
        most = max([most, *(int(line.split()[1]) * 1024 for line in lines)])
        time.sleep(0.002)
    if process.returncode:
        raise SystemExit(f"{json.dumps(command)} failed")
    return time.perf_counter() - start, most


def make(path: Path, size: float) -> None:
    """Write a file of about ``size`` GB; every other weight is called so that it is normalized."""
    import torch
    from safetensors.torch import save_file

    count = max(2, round(size * 1000 * MB / (SHAPE[0] * SHAPE[1] * 4)))
    names = [f"{'normalized' if index % 2 else 'plain'}.{index}.weight" for index in range(count)]
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(SHAPE, generator=generator).add_(0.1) for name in names}
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    if shutil.disk_usage(path).free < 3 * path.stat().st_size:
        raise SystemExit("there is too little room on the disk")


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
