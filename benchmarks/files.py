"""Time and memory of converting large files, beside ``cp`` of the same file: ``python benchmarks/files.py``.

Half of the weights are normalized. Wall time is that of the whole process, torch's import included; the memory is the
highest anonymous memory (RssAnon) that was seen, less that of an interpreter that has imported torch and done nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
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
IDLE = "import torch, numpy, safetensors, time; torch.ones(9) @ torch.ones(9); time.sleep(0.3)"
HEADER = (
    "| file | command | wall | cp | cp + sync | wall / cp | anonymous memory | 2 tensors + 128 MB |\n|" + "---|" * 8
)


def main() -> None:
    """Make the files, convert them, and print the table in markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", type=float, nargs="+", default=[1, 4], metavar="GB")
    arguments.add_argument("--formats", nargs="+", default=["safetensors", "pt"])
    arguments.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        _, idle = measure([sys.executable, "-c", IDLE])
        print(f"an interpreter with torch: {idle / MB:.0f} MB\n\n{HEADER}")
        for size in options.sizes:
            for kind in options.formats:
                rows(Path(folder), kind, size, idle)


def rows(folder: Path, kind: str, size: float, idle: int) -> None:
    """Print the rows of one file."""
    plain, normalized = folder / f"plain.{kind}", folder / f"normalized.{kind}"
    subprocess.run([sys.executable, __file__, "make", str(plain), str(size)], check=True)
    for command, source, output in (("apply", plain, normalized), ("fold", normalized, folder / f"folded.{kind}")):
        choice = ["--include", "normalized.*"] if command == "apply" else []
        alone, synced = copy(source)
        wall, memory = measure([sys.executable, "-c", RUN, command, str(source), "-o", str(output), "-q", *choice])
        limit = 2 * SHAPE[0] * SHAPE[1] * 4 + 128 * MB
        cells = [
            f"{size:g} GB {kind}",
            command,
            f"{wall:.2f} s",
            f"{alone:.2f} s",
            f"{synced:.2f} s",
            f"{wall / alone:.1f}",
            f"{(memory - idle) / MB:.0f} MB",
            f"{limit / MB:.0f} MB",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    for path in folder.iterdir():
        path.unlink()


def copy(path: Path) -> tuple[float, float]:
    """Return how long ``cp`` takes, and how long until the copy is on the disk as well."""
    target, start = path.with_name("copy"), time.perf_counter()
    subprocess.run(["cp", str(path), str(target)], check=True)
    alone = time.perf_counter() - start
    subprocess.run(["sync", str(target)], check=True)
    synced = time.perf_counter() - start
    target.unlink()
    return alone, synced


def measure(command: Sequence[str]) -> tuple[float, int]:
    """Run a command; return its wall time in seconds, and the most anonymous memory it had in bytes."""
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command, env={**os.environ})
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
