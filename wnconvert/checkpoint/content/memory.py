"""Giving memory back to the operating system.

glibc keeps what is freed below 32 MB for later, in a heap where each small tensor that stays makes a gap too small for
the next large one. A conversion that frees a large tensor for each small one it keeps would grow with the file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

#: bytes of tensors after which it is worth the time.
OFTEN = 1 << 25
_made = 0


def about_to_make(size: int) -> None:
    """Say that a tensor of so many bytes is about to be made; now and then, what was freed before is given back.

    Args:
        size: bytes.
    """
    global _made
    _made += size
    if _made >= OFTEN:
        _made = 0
        _trim()(0)


@cache
def _trim() -> Callable[[int], int]:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return lambda kept: 0
    return trim
