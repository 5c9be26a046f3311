"""``python -m wnconvert``: the command line, which the library knows nothing of but here."""

from __future__ import annotations

from wnconvert_cli.main import app

if __name__ == "__main__":
    app(prog_name="python -m wnconvert")
