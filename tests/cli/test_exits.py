"""The words of errors of the operating system, and which exit code counts; commands show which error has which."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.cli.conftest import run
from wnconvert.errors import OutputError
from wnconvert_cli.exits import CODES, DONE, MEANINGS, ORDER, message, worst


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "model.pt"), "'model.pt': permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (OSError("Odd"), "odd"),
        (OutputError("cannot write 'X'"), "cannot write 'X'"),
    ],
)
def test_errors_are_told_in_one_line(error: OSError, text: str) -> None:
    assert message(error) == text


def test_every_code_has_a_meaning_and_a_rank() -> None:
    assert sorted(ORDER) == sorted(MEANINGS)
    assert {DONE, *CODES.values()} <= set(MEANINGS)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 2], 2), ([1, 3, 2, 0], 1), ([4, 1], 4), ([130, 4], 130)],
)
def test_the_worst_code_counts(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected
    assert worst(reversed(codes)) == expected


def test_the_help_and_the_page_say_what_they_mean() -> None:
    shown = " ".join(run("--help").out.split())
    page = " ".join((Path(__file__).parents[2] / "docs" / "using.md").read_text(encoding="utf-8").split())
    for code, text in MEANINGS.items():
        assert f"{code} {text}" in shown
        assert f"| {code} | {text}" in page
