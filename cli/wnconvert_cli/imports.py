"""Code of the user's that is not installed: modules in the current folder, and files that ``--model`` names.

Both are found for one command, and forgotten after it: another command, or a load in the same process, finds what it
would have found without.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from wnconvert.errors import OptionError

#: the package that stands for the folder of a file, so that relative imports find what is beside it.
PACKAGE = "_wnconvert_model"


@contextmanager
def local_imports() -> Iterator[None]:
    """Let modules in the current folder be imported, after those that are installed, and forget them again."""
    path, modules, writes = list(sys.path), set(sys.modules), sys.dont_write_bytecode
    sys.path.append(str(Path.cwd()))
    sys.dont_write_bytecode = True  # a folder that is only read from stays as it is
    importlib.invalidate_caches()
    try:
        yield
    finally:
        added = {Path(entry).resolve() for entry in sys.path if entry not in path}
        sys.path[:], sys.dont_write_bytecode = path, writes
        new = [name for name in sys.modules if name not in modules]
        local = {name for name in new if "." not in name and not added.isdisjoint(_folders(sys.modules[name]))}
        _forget(name for name in new if name.partition(".")[0] in {*local, PACKAGE})


def import_named(name: str) -> ModuleType:
    """Return a module by its dotted name, or by the path of its file.

    What such a file imports is looked for beside it first, as Python does for a file that it runs.

    Raises:
        OptionError: there is no such file.
    """
    if not name.endswith(".py"):
        return importlib.import_module(name)
    file = Path(name).resolve()
    if not file.is_file():
        raise OptionError(f"--model names {name!r}; there is no such file")
    root, parents = file.parent, [PACKAGE]
    while (root / "__init__.py").is_file():
        root, parents = root.parent, [PACKAGE, root.name, *parents[1:]]
    _forget(each for each in list(sys.modules) if each.partition(".")[0] == PACKAGE)
    sys.modules[PACKAGE] = outer = ModuleType(PACKAGE)
    outer.__path__ = [str(root)]
    sys.path[:0] = dict.fromkeys((str(file.parent), str(root)))
    package = ".".join(parents)
    importlib.import_module(package)
    spec = importlib.util.spec_from_file_location(f"{package}.{file.stem.replace('.', '_')}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget(names: Iterable[str]) -> None:
    for name in list(names):
        sys.modules.pop(name, None)


def _folders(module: Any) -> set[Path]:
    """Return the folders in which a module, or a package, was found."""
    spec = getattr(module, "__spec__", None)
    places = list(getattr(spec, "submodule_search_locations", None) or ())
    origin = getattr(spec, "origin", None)
    return {Path(place).resolve().parent for place in places or ([origin] if isinstance(origin, str) else [])}
