"""What ends a command from outside: somebody who asks it to stop, and an input that is cut short while it is mapped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from wnconvert.checkpoint.storage import scratch
from wnconvert_cli.exits import FAILED, TERMINATED

#: where the code of imports is from: what is raised in there, torch's imports and others' swallow.
IMPORTS = "<frozen importlib"
#: seconds between two looks at whether something is still being imported.
WAIT = 0.005


@contextmanager
def stoppable(cut: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT end what is done by an exception, and SIGBUS by one line.

    Args:
        cut: says that an input was cut short while it was read.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may do more
        return
    stopper = Stopper()
    heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stopper) for number in heard}
    try:
        with _told_of_cuts(cut):
            yield
            stopper.heed()
    finally:
        stopper.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopper:
    """Raises what ends a command; while something is imported, as soon as that is done, or when asked again."""

    def __init__(self) -> None:
        self._asked = self._repeated = False
        self._waiting: int | None = None
        self._timer: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        first = self._repeated or not self._asked
        self._asked, self._repeated = True, False
        self._waiting = number if first and _is_importing(frame) else None
        if self._waiting:
            self._timer = threading.Timer(WAIT, self._repeat, (number,))
            self._timer.daemon = True
            self._timer.start()
        else:
            _stop(number)

    def heed(self) -> None:
        """Stop now, if that was asked for and something was imported at every look since."""
        if self._waiting:
            _stop(self._waiting)

    def cancel(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _repeat(self, number: int) -> None:
        self._repeated = True
        signal.raise_signal(number)


def _stop(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORTS):
            return True
        frame = frame.f_back
    return False


@contextmanager
def _told_of_cuts(cut: Callable[[], None]) -> Iterator[None]:
    """End the process by one line where it touches what a mapped file does not have any more.

    No exception can be raised from there: a handler of Python's would run only after the access, which is tried again
    and again. So this one is called by the system, tells what happened, removes what was begun, and ends the process.
    """
    if not hasattr(signal, "SIGBUS"):
        yield
        return
    import ctypes  # help does without

    first = threading.Lock()

    def end(number: int) -> None:
        if not first.acquire(blocking=False):
            threading.Event().wait()  # threads of one kernel touch what is gone at once: one tells, and ends them all
        try:
            cut()
            scratch.abandon()
            sys.stdout.flush()
        finally:
            os._exit(FAILED)

    called = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    handle = ctypes.CDLL(None).signal
    handle.argtypes, handle.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    before = handle(signal.SIGBUS, ctypes.cast(called, ctypes.c_void_p))
    try:
        yield
    finally:
        handle(signal.SIGBUS, before)
