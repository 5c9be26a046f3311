"""Name -> class, filled by decorator, by a package's modules and by one entry-point group."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from wnconvert.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind, by name.

    Args:
        kind: what the classes are, in the singular, for messages (``"scheme"``).
        package: the package whose public modules register themselves when imported.
        group: the entry-point group by which other distributions add classes.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that files the class under ``name``.

        Raises:
            ValueError: another class already has that name.
        """

        def file(cls: type[T]) -> type[T]:
            holder = self._classes.setdefault(name, cls)
            if holder is not cls:
                raise ValueError(f"{self.kind} {name!r} is already registered by {holder!r}")
            return cls

        return file

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            UnknownNameError: no class has that name; the message suggests the nearest one.
        """
        self._discover()
        try:
            return self._classes[name]
        except KeyError:
            raise UnknownNameError(self._unknown(name)) from None

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._classes))

    def _unknown(self, name: str) -> str:
        known = list(self)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown {self.kind} {name!r}{hint} (known: {', '.join(known)})"

    def _discover(self) -> None:
        """Import what registers itself, once: the package's public modules, then the entry points."""
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self._package}.{module.name}")
        for entry_point in entry_points(group=self.group):
            self.register(entry_point.name)(entry_point.load())
