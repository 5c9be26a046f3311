"""The words of errors of the operating system; the codes are tested through the commands."""

from __future__ import annotations

import errno

import pytest

from wnconvert.errors import OutputError
from wnconvert_cli.exits import message


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
