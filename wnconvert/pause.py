"""Run without the cyclic garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_gc() -> Iterator[None]:
    """Pause cyclic garbage collection, which would walk over all that a conversion makes again and again.

    Passes and files of many weights make objects that live, and next to no garbage; measured at 10 000 layers or
    weights, the collector takes a fifth to a third of the time. Also a decorator, ``@paused_gc()``.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
