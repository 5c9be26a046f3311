"""Run every benchmark and print its tables in markdown: ``python benchmarks/all.py > tables.md``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "passes.py",
    "training_step.py",
    "schemes.py",
    "monitoring.py",
    "inference.py",
    "cli_start.py",
    "many_weights.py",
    "files.py",
    "onnx_files.py",
    "deployed.py",
)


def main() -> int:
    """Run the benchmarks one after the other, with the arguments given; return whether one failed."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__, "Arguments that all benchmarks have: --quick, --rounds N, --threads N", sep="\n")
        return 0
    failed = False
    for script in SCRIPTS:
        print(f"\n## {script}\n", flush=True)
        failed |= subprocess.run([sys.executable, Path(__file__).with_name(script), *sys.argv[1:]]).returncode != 0
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
