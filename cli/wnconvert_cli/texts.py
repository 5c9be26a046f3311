"""What the texts of options mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from wnconvert.device import Device
    from wnconvert.scheme import Scheme


def read_scheme(name: str, options: list[str] | None) -> Scheme:
    """Return the scheme of that name with the options given as ``KEY=VALUE``.

    Raises:
        UnknownNameError: no scheme has that name.
        OptionError: an option is not of that form, or the scheme has none of that name, or the value cannot be used.
    """
    from wnconvert.errors import OptionError
    from wnconvert.scheme import SCHEMES

    kind = SCHEMES.get(name)
    known = [field.name for field in fields(kind)]
    values: dict[str, str] = {}
    for text in options or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"option {text!r} is not of the form key=value")
        if key not in known:
            raise OptionError(f"scheme {name!r} has no option {key!r}{suggest(key, known)}")
        values[key] = value
    return kind.from_options(values)


def read_dim(text: str | None) -> int | Literal["output", "default"] | None:
    """Return the dim that a text means; no text is the default.

    Raises:
        OptionError: it means none.
    """
    from wnconvert.errors import OptionError

    if text is None:
        return "default"
    if text.lower() == "none":
        return None
    if text.lower() == "output":
        return "output"
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"--dim is {text!r}; the kept dim must be a number, 'none' or 'output'") from None


def read_device(text: str | None) -> Device:
    """Return the device that a text means, once it was tried; none is the CPU, for which nothing is imported.

    Raises:
        OptionError: no device is called so, or it holds no values.
        DeviceError: there is none here.
    """
    from wnconvert.device import CPU, resolve_device

    return CPU if text in (None, CPU.name) else resolve_device(text)


def read_kept_dim(text: str | None, purpose: str) -> int | Literal["default"] | None:
    """Return the dim that a text means where no model can tell which is the output's.

    Raises:
        OptionError: it means none, or the output's.
    """
    from wnconvert.errors import OptionError

    dim = read_dim(text)
    if dim == "output":
        raise OptionError(f"--dim is 'output'; {purpose}, give the kept dim as a number or 'none'")
    return dim


def suggest(name: str, known: Iterable[str]) -> str:
    """Return what follows an unknown name: a hint at the one that was meant, and all that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return (f"; did you mean {near[0]!r}?" if near else "") + f" (known: {', '.join(names) or 'none'})"


def read_fusions(text: str | None) -> tuple[str, ...] | None:
    """Return the names of fusions that a text such as ``batch_norm,gain`` has; None means all, as ``all`` does.

    Raises:
        UnknownNameError: there is none of such a name.
    """
    from wnconvert.fusion import FUSIONS

    names = tuple(filter(None, (each.strip() for each in (text or "").split(","))))
    if names == ("all",):
        return None
    for name in names:
        FUSIONS.require(name)
    return names
