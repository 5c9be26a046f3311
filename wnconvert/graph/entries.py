"""The tensors of a model by name and by owner, and edits of them that keep their order."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Set
from typing import Any, NamedTuple

from torch import Tensor, nn

from wnconvert.torch_private import BUFFERS, MODULES, PARAMETERS, buffers_of, parameters_of, transient_of


class Entry(NamedTuple):
    """One place where a tensor is registered."""

    module: nn.Module
    path: str
    name: str

    @property
    def fqn(self) -> str:
        """Dotted name of the tensor."""
        return join(self.path, self.name)


class Entries:
    """Every parameter and buffer of a model: by dotted name, and for a tied tensor all the places that hold it."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.tensors: dict[str, Tensor] = {}
        self._owners: dict[int, list[Entry]] = defaultdict(list)
        seen: set[int] = set()
        for path, module in root.named_modules(remove_duplicate=False):
            prefix, is_first = join(path, ""), id(module) not in seen
            seen.add(id(module))
            for name, tensor in own_tensors(module):
                self.tensors[prefix + name] = tensor
                if is_first:
                    self._owners[id(tensor)].append(Entry(module, path, name))

    def owners(self, tensor: Tensor) -> list[Entry]:
        """Return the places that hold ``tensor``, each module once, in the order of `named_modules`."""
        return self._owners.get(id(tensor), [])

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.tensors.items())


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers that a module itself has, with their names."""
    kinds = (parameters_of(module), buffers_of(module))
    return [(name, tensor) for kind in kinds for name, tensor in kind.items() if tensor is not None]


#: what no tensor is in, and what none is in as long as it is empty.
_WITHOUT_TENSORS = frozenset({bool, int, float, str, type(None)})
_CONTAINERS = frozenset({dict, OrderedDict, list, tuple, set})


def held_tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor that a module of ``root`` holds, registered or not, alone or in a list, tuple or dict.

    Yields:
        its dotted name, or that of the attribute which it is in, and the tensor.
    """
    for path, module in root.named_modules():
        for name, value in module.__dict__.items():
            # what a weak proxy refers to may be gone, and even to ask for its class would fail
            kind = type(value)
            if kind in _WITHOUT_TENSORS or (kind in _CONTAINERS and not value):
                continue  # nearly all attributes
            if issubclass(kind, Tensor):
                yield join(path, name), value
            elif issubclass(kind, dict):
                registered = name in (PARAMETERS, BUFFERS)
                for key, each in value.items():
                    if issubclass(type(each), Tensor):
                        yield join(path, key if registered else name), each
            elif issubclass(kind, (list, tuple)):
                yield from ((join(path, name), each) for each in value if issubclass(type(each), Tensor))


#: what stands before all tensors of a module, whose names are never empty
_FIRST = ""


class Edits:
    """Replacements of parameters and buffers, collected and then made at once: linear in the size of each module."""

    def __init__(self) -> None:
        self._changed: dict[int, nn.Module] = {}
        self._changes: dict[int, dict[str, dict[str, Tensor]]] = defaultdict(dict)
        self._transient: dict[int, set[str]] = {}

    def replace(self, module: nn.Module, old: Iterable[str], new: dict[str, Tensor], persistent: bool = True) -> None:
        """Put ``new`` where the first of ``old`` stands, and drop all of ``old``.

        Parameters go among the parameters. Buffers go where the first of ``old`` stands if that is a buffer too, and
        to the end otherwise.

        Args:
            module: the owner.
            old: names of its parameters or buffers.
            new: tensors by name; an `nn.Parameter` becomes a parameter, any other tensor a buffer.
            persistent: whether new buffers are part of the state dict.
        """
        first, *others = old
        self._changed[id(module)] = module
        change = self._changes[id(module)]
        change.setdefault(first, {}).update(new)
        for name in others:
            change.setdefault(name, {})
        if not persistent:
            self._transient.setdefault(id(module), set()).update(new)

    def insert(self, module: nn.Module, new: dict[str, Tensor], persistent: bool = True) -> None:
        """Put ``new`` before all others of its kind, where torch's classes register their weights; buffers go last."""
        self._changed[id(module)] = module
        self._changes[id(module)].setdefault(_FIRST, {}).update(new)
        if not persistent:
            self._transient.setdefault(id(module), set()).update(new)

    def commit(self) -> None:
        """Make the replacements; called once."""
        for key, module in self._changed.items():
            _rebuild(module, self._changes[key], self._transient.get(key, frozenset()))


def _rebuild(module: nn.Module, changes: dict[str, dict[str, Tensor]], transient: Set[str]) -> None:
    parameters: dict[str, Any] = {}
    buffers: dict[str, Any] = {}
    inserted = changes.get(_FIRST, {})
    parameters.update((name, tensor) for name, tensor in inserted.items() if isinstance(tensor, nn.Parameter))
    for kind, same in ((parameters_of(module), parameters), (buffers_of(module), buffers)):
        for name, tensor in kind.items():
            if name not in changes:
                same[name] = tensor
                continue
            for new_name, new_tensor in changes[name].items():
                (parameters if isinstance(new_tensor, nn.Parameter) else buffers)[new_name] = new_tensor
    buffers.update((name, tensor) for name, tensor in inserted.items() if name not in parameters)
    # changed in place, for nn.Module's own way to set attributes costs as much as all the rest
    known = transient_of(module)
    if transient or known:
        known.difference_update(changes.keys() - buffers.keys())
        known.update(transient & buffers.keys())
    for old, new in ((parameters_of(module), parameters), (buffers_of(module), buffers)):
        if old or new:
            old.clear()
            old.update(new)


def join(path: str, name: str) -> str:
    """Return the dotted name of ``name`` below ``path``; the root's path is empty."""
    return f"{path}.{name}" if path else name


def locate(root: nn.Module, fqn: str) -> Any:
    """Return the attribute of ``root`` with a dotted name, or None if there is none."""
    value: Any = root
    for atom in fqn.split("."):
        # nn.Module's own look-up builds an error for what is not there, which costs more than all the rest
        value = getattr(value, atom) if not isinstance(value, nn.Module) or has_attribute(value, atom) else None
        if value is None:
            return None
    return value


def has_attribute(module: nn.Module, name: str) -> bool:
    """Return ``hasattr(module, name)``, without the error message that nn.Module builds where it is not."""
    values = module.__dict__
    return (
        name in values
        or name in values[PARAMETERS]
        or name in values[BUFFERS]
        or name in values[MODULES]
        or hasattr(type(module), name)
    )
