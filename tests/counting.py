"""Work that is counted, where a clock would measure the machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooMuchWorkError(AssertionError):
    """More calls than were allowed."""


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Allow so many calls of functions, of Python's and of C's; stop what makes more."""
    left = calls

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left < 0:
            raise TooMuchWorkError(f"more than {calls} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
