"""A listing of the public names with their signatures, a line each.

``python -m tests.public > tests/public.txt`` writes it. What a class has from a base of its own package is listed with
that base; what torch or Python give is theirs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

import wnconvert
import wnconvert.checkpoint


def listing() -> list[str]:
    """Return the lines, in order."""
    lines = (
        line
        for package in (wnconvert, wnconvert.checkpoint)
        for name in package.__all__
        for line in _described(f"{package.__name__}.{name}", getattr(package, name))
    )
    return sorted(lines)


def _described(path: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {path}({bases})" if bases else f"class {path}"
        if "__init__" in vars(value) and not issubclass(value, Enum):
            yield f"{path}{_signature(value)}"
        for name, member in vars(value).items():
            if not name.startswith("_"):
                yield f"{path}.{name}{_of_member(member)}"
    elif callable(value):
        yield f"{path}{_signature(value)}"
    else:
        yield f"{path}: {type(value).__name__}"


def _of_member(member: Any) -> str:
    if isinstance(member, property):
        return ": property"
    if isinstance(member, (classmethod, staticmethod)):
        return f": {type(member).__name__} {_signature(member.__func__)}"
    return str(_signature(member)) if inspect.isfunction(member) else ""


def _signature(function: Any) -> str:
    parameters = inspect.signature(function).parameters.values()
    return f"({', '.join(map(_parameter, parameters))})"


def _parameter(parameter: inspect.Parameter) -> str:
    """Return a parameter; annotations are left out, of which Python's versions think differently."""
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = {inspect.Parameter.KEYWORD_ONLY: "keyword ", inspect.Parameter.POSITIONAL_ONLY: "positional "}
    default = "" if parameter.default is parameter.empty else f"={_default(parameter.default)}"
    return f"{kind.get(parameter.kind, '')}{star}{parameter.name}{default}"


def _default(value: Any) -> str:
    """Return a default that says the same in each process."""
    text = repr(value)
    return f"<{getattr(value, '__name__', type(value).__name__)}>" if "<" in text else text


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in listing())
