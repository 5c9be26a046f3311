"""Try every project and write ``docs/loading.md``: ``python -m tests.loading.projects.generate``.

Rows of packages that are not installed keep what the page says of them, so that environments may be run one by one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.loading.projects.page import INTRODUCTION, PAGE, line
from tests.loading.projects.rows import Row, rows
from tests.loading.projects.trying import attempt


def main() -> None:
    """Write the page."""
    torch.set_num_threads(1)
    known = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    lines = []
    for row in rows():
        lines.append(_kept(row, known) if row.absence() else _tried(row))
        print(lines[-1], flush=True)
    PAGE.write_text(INTRODUCTION + "\n".join(lines) + "\n", encoding="utf-8")


def _tried(row: Row) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return line(row, attempt(row, Path(folder)))


def _kept(row: Row, known: list[str]) -> str:
    title = row.title.replace("*", "\\*")
    found = next((each for each in known if each.startswith(f"| {title} |")), None)
    return found or sys.exit(f"{row.title} cannot be tried ({row.absence()}), and is not on the page yet")


if __name__ == "__main__":
    main()
