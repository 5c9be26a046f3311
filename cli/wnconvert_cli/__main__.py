"""``python -m wnconvert_cli``."""

from __future__ import annotations

from wnconvert_cli.main import app

if __name__ == "__main__":
    app(prog_name="python -m wnconvert_cli")
