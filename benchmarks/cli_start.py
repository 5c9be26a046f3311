"""Start of the command line: `wnconvert --help` against a bare interpreter and against `import torch`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paired import Race, Side, machine, parse, parser, table

ROOT = Path(__file__).resolve().parent.parent
#: from the checkout, so that nothing need be installed
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "cli")))}
HELP = "import sys; sys.argv = ['wnconvert', '--help']; from wnconvert_cli.main import app; app(); "
PROGRAMS = {
    "python -c pass": "pass",
    "import typer": "import typer",
    "wnconvert --help": HELP,
    "import torch": "import torch",
}


def start(code: str) -> None:
    """Run a program in a new interpreter."""
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def check() -> None:
    """See that the help is printed without importing torch."""
    code = HELP.replace("app();", "app(standalone_mode=False);") + "assert 'torch' not in sys.modules"
    start(code)


def main() -> None:
    """Run the benchmark."""
    options = parse(parser(__doc__, rounds=15, quick=3))
    check()
    print(machine())
    race = Race({name: Side(lambda _, code=code: start(code)) for name, code in PROGRAMS.items()}, options.rounds)
    rows = [
        race.row("wnconvert --help", "wnconvert --help", "import torch"),
        race.row("wnconvert --help", "wnconvert --help", "import typer"),
        race.row("wnconvert --help", "wnconvert --help", "python -c pass"),
    ]
    table("Start of the command line; torch is not imported", rows)


if __name__ == "__main__":
    main()
