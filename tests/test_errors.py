"""Errors: one root, a built-in exception beside it, and those of others told in one line."""

from __future__ import annotations

import inspect

import pytest

from wnconvert import errors

OURS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_has_the_root_and_a_built_in_exception_above_it(kind) -> None:
    if kind is errors.WnconvertError:
        return
    built_in = {base for base in kind.__mro__ if base.__module__ == "builtins"} - {Exception, BaseException, object}
    assert built_in
    assert issubclass(kind, errors.WnconvertError) is not issubclass(kind, Warning)
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (RuntimeError("\nthe first line\nand more"), "RuntimeError: the first line"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_exception_of_others_is_one_line(error, text) -> None:
    assert errors.described(error) == text
