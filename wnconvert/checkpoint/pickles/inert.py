"""What stands for objects whose code is not run, and the state dicts of those that are modules.

A pickle names classes and functions. Those that are not known to be harmless are neither looked up nor called: an
`Unknown` records what the pickle says of them. What has the attributes of a module shows its state dict all the same,
for that follows from these attributes alone.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any, NoReturn, SupportsIndex, TypeAlias

from torch import Tensor, nn

from wnconvert.checkpoint.content.tree import DEEPEST
from wnconvert.errors import CheckpointError, UnsafePickleError
from wnconvert.torch_private import BUFFERS, MODULES, PARAMETERS, REGISTERED, SAVE_HOOKS, TRANSIENT

#: what every module has, in every version of torch.
ATTRIBUTES = REGISTERED
#: hooks that can change a state dict; those of torch's spectral norm only add a version to its metadata.
HOOKS = SAVE_HOOKS
HARMLESS = "torch.nn.utils.spectral_norm."
#: no model has more modules and tensors; a few bytes can nest the same ones without measure.
MOST = 1 << 20
#: what leads to nothing else.
LEAVES = {str, bytes, int, float, bool, type(None), Tensor, nn.Parameter}
#: what leads to nothing else when it is empty.
HOLDERS = {list, tuple, dict, set, frozenset}
#: the place of something: that of what holds it, and its key in there; nothing for the root.
Link: TypeAlias = tuple[()] | tuple["Link", Hashable]
#: so many notes are given one by one, with so many characters of each name.
NOTES, SHOWN = 20, 100


class Unknown:
    """A class or function that is not looked up, or what calling it would give: a record without behaviour.

    Attributes:
        name: dotted name of the class or function.
        args: what it was called with; None where it was not.
        state: what was to become the attributes of the object.
    """

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.name = name
        self.args = args
        self.state: Any = None

    @property
    def module(self) -> dict[str, Any] | None:
        """The attributes of a module, where there are any: as the state, or as the first argument."""
        state = self.state[0] if type(self.state) is tuple and self.state else self.state
        for found in (state, *(self.args or ())[:1]):  # torch.fx.GraphModule has them as an argument
            if isinstance(found, dict) and all(isinstance(found.get(each), dict) for each in ATTRIBUTES):
                return found
        return None

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise pickle.PicklingError(f"an object of {self} can be written by its code alone")

    def __str__(self) -> str:
        return _shown(self.name)


def as_state_dicts(content: Any) -> tuple[Any, tuple[str, ...]]:
    """Put state dicts in the place of modules, wherever dicts, lists and tuples lead to one.

    Args:
        content: what was just read; its dicts and lists are changed.

    Returns:
        The content, and notes on what was a module and on what is unknown.

    Raises:
        CheckpointError: it is nested absurdly deep, or a module does not show its state dict.
    """
    done: dict[int, tuple[Any, Any]] = {}  # holds what was replaced, too, or its id could be that of something else
    notes: list[str] = []
    steps = count()

    def visit(node: Any, path: tuple[Hashable, ...]) -> Any:
        if not isinstance(node, (dict, list, tuple, Unknown)):
            return node
        if id(node) in done:
            return done[id(node)][1]
        if len(path) > DEEPEST:
            raise CheckpointError(f"the content is nested more than {DEEPEST} deep")
        if isinstance(node, Unknown) and node.module is not None:
            done[id(node)] = node, _state_dict(node, _place(path), steps)
            notes.append(f"{_place(path)} is a pickled module {node}, read as its state dict, without its code")
            notes.extend(
                f"{_place(path)} has a hook {hook}, which did not change its state dict" for hook in _hooks(node)
            )
        elif type(node) is tuple:
            done[id(node)] = node, tuple([visit(value, (*path, index)) for index, value in enumerate(node)])
        elif isinstance(node, dict) or type(node) is list:
            done[id(node)] = node, node
            for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
                node[key] = visit(value, (*path, key))
        return done[id(node)][1] if id(node) in done else node

    new = visit(content, ())
    unknown = islice(find_unknown(new), NOTES)
    shown = [*notes, *(f"{place} is an object of {each}, which its code alone can build" for place, each in unknown)]
    more = len(notes) + sum(1 for _ in _unknown_in(new)) - NOTES
    return new, (*shown[:NOTES], *([f"and {more} more such objects"] if more > 0 else []))


def _state_dict(module: Unknown, place: str, steps: Iterator[int]) -> OrderedDict[str, Tensor]:
    """Return what `torch.nn.Module.state_dict` gives: the same keys, in the same order, and tied where they were."""
    entries: OrderedDict[str, Tensor] = OrderedDict()

    def add(node: Any, path: tuple[str, ...]) -> None:
        attributes = node.module if isinstance(node, Unknown) else None
        if attributes is None:
            raise CheckpointError(f"{place}: its module {_place(path)} is {_kind(node)}, which hides its tensors")
        for name, tensor in chain([("", None)], _tensors(attributes)):
            if len(path) > DEEPEST or next(steps) > MOST:
                raise CheckpointError(f"{place}: its modules are nested without measure")
            if isinstance(tensor, Tensor):
                entries[".".join([*path, name])] = Tensor.detach(tensor)
            elif tensor is not None:
                raise CheckpointError(f"{place}: its {_place([*path, name])} is {_kind(tensor)}, not a plain tensor")
        for name, child in attributes[MODULES].items():
            if child is not None:
                add(child, (*path, str(name)))

    add(module, ())
    return entries


def _tensors(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a module itself has in a state dict: parameters, then buffers."""
    passing = attributes.get(TRANSIENT)
    passing = passing if isinstance(passing, (set, list)) else ()  # torch before 1.6 has none
    for name, value in attributes[PARAMETERS].items():
        yield str(name), value
    for name, value in attributes[BUFFERS].items():
        if name not in passing:
            yield str(name), value


def find_unknown(content: Any) -> Iterator[tuple[str, Unknown]]:
    """Yield every `Unknown` that plain data lead to, and the place where it is."""
    for place, node in _unknown_in(content):
        keys = []
        while place:
            place, key = place
            keys.append(key)
        yield _place(keys[::-1]), node


def unknown_names(content: Any) -> set[str]:
    """Return the names of every `Unknown` that plain data lead to."""
    return {each.name for _, each in _unknown_in(content)}


def _unknown_in(content: Any) -> Iterator[tuple[Link, Unknown]]:
    seen: set[int] = set()
    rest: list[tuple[Link, Any]] = [((), content)]
    while rest:
        place, node = rest.pop()
        if type(node) is Unknown:
            yield place, node
        elif id(node) not in seen:
            seen.add(id(node))
            first = len(rest)
            for key, value in enumerate(node) if type(node) in (list, tuple) else _inner(node):
                kind = type(value)
                if kind not in LEAVES and (kind not in HOLDERS or value):
                    rest.append(((place, key), value))
            rest[first:] = reversed(rest[first:])


def require_known(content: Any) -> None:
    """Check that content can be written without the code of what is in it.

    Raises:
        UnsafePickleError: it cannot.
    """
    for place, found in find_unknown(content):
        raise UnsafePickleError(
            f"{place} is an object of {found}, which its code alone can write; give --trust if you trust where the "
            "file comes from, else save it without that object"
        )


def _inner(node: Any) -> Iterator[tuple[Hashable, Any]]:
    """Yield what a node holds: values, keys that are no plain ones, and the attributes of what has some."""
    if isinstance(node, dict):
        yield from node.items()
        yield from ((f"a key of {type(node).__name__}", key) for key in node if isinstance(key, (Unknown, tuple)))
    elif isinstance(node, (list, tuple, set, frozenset)):
        yield from enumerate(node)
    if type(node) in (OrderedDict, Namespace):
        yield from vars(node).items()


def _hooks(module: Unknown) -> Iterator[Unknown]:
    attributes = module.module or {}
    for hooks in (attributes.get(name) for name in HOOKS):
        for hook in hooks.values() if isinstance(hooks, dict) else ():
            if isinstance(hook, Unknown) and not hook.name.startswith(HARMLESS):
                yield hook


def _kind(value: Any) -> str:
    return f"an object of {value}" if isinstance(value, Unknown) else f"a {type(value).__name__}"


def _place(path: Sequence[Hashable]) -> str:
    return _shown(".".join(str(key)[:SHOWN] for key in path[:SHOWN])) if path else "the file"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
