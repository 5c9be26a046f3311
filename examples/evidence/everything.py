"""Conduct every study and write ``docs/evidence.md``: ``python everything.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from report import STUDIES, main

if __name__ == "__main__":
    for name in STUDIES:
        subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py")], check=True)
    main()
