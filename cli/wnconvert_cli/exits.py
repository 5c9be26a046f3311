"""Exit codes, and the words that go with them."""

from __future__ import annotations

from wnconvert.errors import NothingToConvertError, OptionError, UnknownNameError, VerificationError, WnconvertError

FAILED, USAGE, NOTHING, UNVERIFIED, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 130, 143
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


def message(error: Exception) -> str:
    """Return what is wrong, in the words of the error or of the operating system."""
    if isinstance(error, OSError) and not isinstance(error, WnconvertError):
        reason = (error.strerror or str(error)).lower()
        return f"{error.filename!r}: {reason}" if error.filename else reason
    return str(error)
