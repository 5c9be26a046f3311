"""Every exception that wnconvert raises on purpose.

::

    WnconvertError
    ├── UnknownNameError      (LookupError)   no scheme or format of that name
    ├── OptionError           (ValueError)    an option has a value that cannot be used
    ├── TracingError          (RuntimeError)  torch.fx cannot trace the model
    ├── CopyError             (ValueError)    the model cannot be copied
    ├── KindError             (TypeError)     the model is nothing that can be converted as it is
    ├── NothingToConvertError (ValueError)    no weight was matched
    ├── IncompleteError       (ValueError)    a weight that was asked for was skipped, and none may be
    ├── VerificationError     (RuntimeError)  the converted weights are not what they must be
    ├── DeviceError           (RuntimeError)  a device is not there, or cannot compute what it is given
    ├── CheckpointError       (ValueError)    the input file cannot be used
    │   └── UnsafePickleError                 reading it would run code
    └── OutputError           (OSError)       the output cannot be written

and the one warning::

    WnconvertWarning      (UserWarning)   another distribution offers something that cannot be used

Each leaf also inherits the built-in exception it specialises, so that callers may catch either.
Messages are lower-case and name the offending value, then the way out.
"""

from __future__ import annotations

from typing import Any


class WnconvertError(Exception):
    """Root of every exception that wnconvert raises on purpose."""


class UnknownNameError(WnconvertError, LookupError):
    """No scheme or format has that name."""


class OptionError(WnconvertError, ValueError):
    """An option has a value that cannot be used."""


class TracingError(WnconvertError, RuntimeError):
    """torch.fx cannot trace the model."""


class CopyError(WnconvertError, ValueError):
    """The model cannot be copied, which a conversion does unless it is to change the model itself."""


class KindError(WnconvertError, TypeError):
    """The model is nothing that can be converted as it is."""


class NothingToConvertError(WnconvertError, ValueError):
    """No weight was matched, so there is nothing to do.

    Attributes:
        report: the `wnconvert.Report` of what was skipped, and why; None where no weight was looked at.
    """

    def __init__(self, *args: object, report: Any = None) -> None:
        super().__init__(*args)
        self.report = report


class IncompleteError(WnconvertError, ValueError):
    """A weight that was asked for was skipped, and none may be (``--strict``); nothing was written.

    Attributes:
        report: the `wnconvert.Report` of what would have been converted, and of what was skipped, and why.
    """

    def __init__(self, *args: object, report: Any = None) -> None:
        super().__init__(*args)
        self.report = report


class VerificationError(WnconvertError, RuntimeError):
    """The converted weights are not what they must be; nothing was written."""


class DeviceError(WnconvertError, RuntimeError):
    """A device is not there, or cannot compute what it is given."""


class CheckpointError(WnconvertError, ValueError):
    """The input file cannot be used."""


class UnsafePickleError(CheckpointError):
    """Reading the input file would run code that it names."""


class OutputError(WnconvertError, OSError):
    """The output cannot be written."""


class WnconvertWarning(UserWarning):
    """Another distribution offers wnconvert something that cannot be used; it is left out."""


def described(error: BaseException) -> str:
    """Return an exception of somebody else's code in one line, as a reason."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
