"""Name -> class or function, filled by decorator, by a package's modules and by an entry-point group.

Other distributions join by entry points. What is wrong with one costs the others nothing: it is left out, a warning
names it, and so does the error of whoever asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, distributions
from typing import Any, Generic, TypeVar

from wnconvert.errors import UnknownNameError, WnconvertWarning, described

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by name.

    Args:
        kind: what they are, in the singular, for messages (``"scheme"``).
        package: the package whose public modules register themselves when imported; None where there is none.
        group: the entry-point group by which other distributions add things.
        base: the class that they must derive from, and whose attributes they must have; None for functions.
        check: raises an exception where one of another distribution cannot be used.
    """

    def __init__(
        self,
        kind: str,
        package: str | None,
        group: str,
        base: type | None = None,
        check: Callable[[T], object] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._package = package
        self._base = base
        self._check = check
        self._things: dict[str, T] = {}
        self._discovered = False
        #: whether that is done and all of it said, so that nobody needs to wait any more
        self._found = self._complete = False
        self._discovering = threading.RLock()
        #: why entry points are left out, by name
        self._broken: dict[str, str] = {}
        self._unsaid: list[str] = []

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files a thing under ``name``.

        Raises:
            ValueError: another one already has that name.
        """

        def file(thing: T) -> T:
            holder = self._things.setdefault(name, thing)
            if holder is not thing:
                raise ValueError(f"{self.kind} {name!r} is already registered by {holder!r}")
            return thing

        return file

    def get(self, name: str) -> T:
        """Return what is registered under ``name``.

        Raises:
            UnknownNameError: nothing is; the message suggests the nearest name.
        """
        self._discover()
        try:
            return self._things[name]
        except KeyError:
            raise UnknownNameError(self._unknown(name, list(self))) from None

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._things))

    def peek(self) -> list[str]:
        """Return the names without importing what they stand for.

        That is what files and entry points are called, so only for a package of which each module registers one thing
        of its name. What is broken is still among them.
        """
        spec = importlib.util.find_spec(self._package) if self._package else None
        places = spec.submodule_search_locations if spec else None
        own = [module.name for module in pkgutil.iter_modules(places or []) if not module.name.startswith("_")]
        return sorted({*self._things, *own, *(entry.name for _, entry in offered().get(self.group, ()))})

    def require(self, name: str) -> None:
        """Check that there may be something of that name, see `peek`.

        Raises:
            UnknownNameError: there is not; the message suggests the nearest name.
        """
        if name not in (known := self.peek()):
            raise UnknownNameError(self._unknown(name, known))

    def _unknown(self, name: str, known: list[str]) -> str:
        if name in self._broken:
            return self._broken[name]
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown {self.kind} {name!r}{hint} (known: {', '.join(known)})"

    def _discover(self) -> None:
        """Import what registers itself, once: the package's public modules, then the entry points."""
        if self._complete:
            return
        with self._discovering:  # another thread waits; this one, importing, sees what there is so far
            if not self._discovered:
                self._discovered = True
                try:
                    self._import_package()
                except BaseException:
                    self._discovered = False
                    raise
                for distribution, entry in offered().get(self.group, ()):
                    self._add(distribution, entry)
                self._found = True
            while self._unsaid:
                warnings.warn(self._unsaid[0], WnconvertWarning, stacklevel=3)
                del self._unsaid[0]  # not where the warning was made an error: then it is said again
            self._complete = self._found  # and not where this thread is still importing

    def _import_package(self) -> None:
        if self._package is None:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self._package}.{module.name}")

    def _add(self, distribution: str, entry: EntryPoint) -> None:
        before = dict(self._things)
        try:
            thing = entry.load()
            if problem := self._problem(thing, entry.name):
                raise TypeError(problem)
            if self._check:
                self._check(thing)
            self.register(entry.name)(thing)
        except Exception as error:  # noqa: BLE001 - it is somebody else's code
            self._things = before
            offer = f"the {self.kind} {entry.name!r} of the installed {distribution} ({entry.value})"
            self._broken[entry.name] = f"{offer} cannot be used: {described(error)}; repair or uninstall it"
            self._unsaid.append(self._broken[entry.name])

    def _problem(self, thing: Any, name: str) -> str | None:
        """Return why something cannot be what is registered here, or None."""
        if self._base is None:
            return None if callable(thing) else f"{thing!r} cannot be called"
        if not (isinstance(thing, type) and issubclass(thing, self._base)):
            return f"{thing!r} is no class that derives from {self._base.__name__}"
        wanted = [key for key, kind in self._base.__annotations__.items() if str(kind).startswith("ClassVar")]
        missing = [key for key in wanted if not hasattr(thing, key)]
        missing += sorted(getattr(thing, "__abstractmethods__", ()))
        if missing:
            return f"it has no {' and no '.join(map(repr, missing))}"
        return None if thing.name == name else f"its name is {thing.name!r}"  # type: ignore[attr-defined]


@cache
def offered() -> Mapping[str, list[tuple[str, EntryPoint]]]:
    """Return the entry points for wnconvert by group, each with the name and version of its distribution."""
    found: dict[str, list[tuple[str, EntryPoint]]] = defaultdict(list)
    names = set()
    for each in distributions():
        # few have any, and to parse all of them takes longer
        if "[wnconvert." in (each.read_text("entry_points.txt") or "") and each.name not in names:
            names.add(each.name)  # the first on the path is the one that is imported
            distribution = f"{each.name} {each.version}"
            try:
                for entry in each.entry_points:
                    found[entry.group].append((distribution, entry))
            except Exception as error:  # noqa: BLE001 - it is somebody else's file
                what = f"the entry points of the installed {distribution} cannot be read: {described(error)}"
                warnings.warn(f"{what}; repair or uninstall it", WnconvertWarning, stacklevel=4)
    return found
