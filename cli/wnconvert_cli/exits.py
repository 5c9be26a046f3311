"""Exit codes, and the words that go with them."""

from __future__ import annotations

from collections.abc import Iterable

from wnconvert.errors import NothingToConvertError, OptionError, UnknownNameError, VerificationError, WnconvertError

DONE, FAILED, USAGE, NOTHING, UNVERIFIED, UNTOLD, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 5, 130, 143
#: what they mean, for the help; docs/using.md says the same, and a test compares them.
MEANINGS = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "usage",
    NOTHING: "nothing to convert",
    UNVERIFIED: "verification failed, or files differ",
    UNTOLD: "done, but the result could not be printed",
    INTERRUPTED: "interrupted",
    TERMINATED: "terminated",
}
#: from good to bad: of several inputs, the worst counts. That there is nothing to do is often just what is wanted; that
#: something was written and is not what it must be is worse than anything that was known before.
ORDER = (DONE, UNTOLD, NOTHING, USAGE, FAILED, UNVERIFIED, TERMINATED, INTERRUPTED)
#: of errors that wnconvert raises on purpose; all others give `FAILED`.
CODES = {
    UnknownNameError: USAGE,
    OptionError: USAGE,
    NothingToConvertError: NOTHING,
    VerificationError: UNVERIFIED,
}


def exit_code(error: Exception) -> int:
    """Return the exit code of an error that wnconvert raised on purpose."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), FAILED)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code that counts where there are several."""
    return max(codes, key=ORDER.index, default=DONE)


def message(error: Exception) -> str:
    """Return what is wrong, in the words of the error or of the operating system."""
    if isinstance(error, OSError) and not isinstance(error, WnconvertError):
        reason = (error.strerror or str(error)).lower()
        return f"{error.filename!r}: {reason}" if error.filename else reason
    return str(error)
