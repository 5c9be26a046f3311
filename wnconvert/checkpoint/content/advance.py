"""How far a long operation is, for whoever asked: bytes of tensors that were written or compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

#: is told how many bytes are done, of how many
Progress: TypeAlias = Callable[[int, int], None]
_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


@contextmanager
def told(progress: Progress | None, total: int) -> Iterator[None]:
    """Tell ``progress`` of what is done inside of this context and thread, and of no other.

    Args:
        progress: what is told; None tells nobody.
        total: the bytes that there are; more are never said to be done.
    """
    done = 0

    def add(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(min(done, total), total)

    token = _listener.set(add if progress is not None else None)
    try:
        yield
    finally:
        _listener.reset(token)


def advance(size: int) -> None:
    """Say that so many bytes more are done."""
    if (listener := _listener.get()) is not None:
        listener(size)
