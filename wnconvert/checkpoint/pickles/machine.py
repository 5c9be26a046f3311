"""Reading a pickle of `torch.save` or `torch.package` without the code that it names.

What `torch.load` with ``weights_only`` and `harmless` let through is built. Any other class or function, and
what calling it would give, is an `Unknown`. Pickles are programs for a stack machine, and the one here is all that
interprets them: what it can call is in `call`, and what it can change in `build`.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from wnconvert.checkpoint.pickles.inert import Unknown
from wnconvert.checkpoint.pickles.safety import first_line, harmless
from wnconvert.checkpoint.storage.zip_archive import Archive
from wnconvert.errors import CheckpointError, UnsafePickleError
from wnconvert.torch_private import allowed_globals, validate_sparse_tensors

#: returns a storage, given its key and the dtype and number of its elements.
Storages: TypeAlias = Callable[[Any, torch.dtype, int], torch.UntypedStorage]
#: operations that push what follows them, and those that push something new.
LITERALS = {
    each.name
    for each in pickletools.opcodes
    if each.arg and not each.stack_before and each.stack_after and each.stack_after[0] is not pickletools.anyobject
}
FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
#: how Python's oldest protocols make an object: they name its class as an argument.
RECONSTRUCTOR = "copyreg._reconstructor"
MAPPINGS = (dict, OrderedDict, Counter)
HASHING = (set, frozenset, *MAPPINGS)


def load(path: Path, file: IO[bytes], storages: Storages | None = None) -> Any:
    """Return the object of the pickle that ``file`` goes on with, and leave the file behind its end.

    Args:
        path: where the pickle comes from, for messages.
        file: where to read.
        storages: gives the storages that the pickle refers to; without, it may refer to none.

    Raises:
        CheckpointError: it is damaged, or does what no checkpoint needs.
    """
    try:
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            content = _Machine(storages).run(file)
            validate_sparse_tensors()
        return content
    except UnsafePickleError as error:
        raise UnsafePickleError(f"cannot read {str(path)!r}: {error}; give --trust if you trust its origin") from error
    except (CheckpointError, OSError):
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"cannot read {str(path)!r} without its code: {first_line(error)}") from error
    except Exception as error:  # a damaged file can make it raise anything at all
        raise CheckpointError(f"cannot read {str(path)!r}: it is damaged ({first_line(error)})") from error
    finally:
        validate_sparse_tensors()  # or the next `torch.load` would, after what was not read to its end


def mapped(archive: Archive, folder: str, ending: str = "") -> Storages:
    """Return storages that are the records of an archive, mapped where they are stored as they are.

    Args:
        archive: the archive.
        folder: folder of the records.
        ending: what their names have after the key.

    Raises:
        CheckpointError: the bytes of its numbers are in another order than this machine's.
    """
    record = archive.find("byteorder")
    order = archive.data(record) if record else b"little"
    if order.decode(errors="replace") != sys.byteorder:
        raise CheckpointError(f"{str(archive.path)!r} is of a machine with another byte order; load it with torch")
    found: dict[Any, torch.UntypedStorage] = {}

    def storage(key: Any, dtype: torch.dtype, count: int) -> torch.UntypedStorage:
        if key not in found:
            found[key] = archive.storage(f"{folder}/{key}{ending}")
        return found[key]

    return storage


class _Machine:
    """The stack machine that a pickle is a program of. Its operations have the names that `pickletools` gives them."""

    def __init__(self, storages: Storages | None) -> None:
        self._storages = storages
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._reduced: dict[Any, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        """Return what the program leaves on the stack."""
        for operation, arg, _ in pickletools.genops(file):
            name = operation.name
            if name in LITERALS:
                self._stack.append(arg)
            elif name in FRESH:
                self._stack.append(FRESH[name]())
            elif name not in ("PROTO", "FRAME", "STOP"):
                getattr(self, f"op_{name.lower()}", self._unknown)(*([] if arg is None else [arg]))
        return self._stack.pop()

    def _unknown(self, arg: Any = None) -> None:
        """Refuse what refers to code registered elsewhere, or to data beside the file."""
        raise pickle.UnpicklingError("it has an operation that no checkpoint needs")

    def op_mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def op_pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def op_dup(self) -> None:
        self._stack.append(self._stack[-1])

    def op_get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def op_put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    op_binget = op_long_binget = op_get
    op_binput = op_long_binput = op_put

    def op_memoize(self) -> None:
        self.op_put(len(self._memo))

    def op_tuple(self) -> None:
        items = self._pop_mark()
        self._stack.append((*items,))

    def op_tuple1(self) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def op_tuple2(self) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def op_tuple3(self) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def op_list(self) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def op_dict(self) -> None:
        items = self._pop_mark()
        self._stack.append({})
        set_items(self._stack[-1], items)

    def op_frozenset(self) -> None:
        items = self._pop_mark()
        self._stack.append(frozenset(hashable(items)))

    def op_append(self) -> None:
        item = self._stack.pop()
        extend(self._stack[-1], [item])

    def op_appends(self) -> None:
        items = self._pop_mark()
        extend(self._stack[-1], items)

    def op_setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        set_items(self._stack[-1], [key, value])

    def op_setitems(self) -> None:
        items = self._pop_mark()
        set_items(self._stack[-1], items)

    def op_additems(self) -> None:
        items = self._pop_mark()
        extend(self._stack[-1], items)

    def op_global(self, names: str) -> None:
        self._stack.append(find(*names.split(" ", 1)))

    def op_stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(find(module, name))

    def op_reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(call(function, args))

    op_newobj = op_reduce

    def op_newobj_ex(self) -> None:
        named, args, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._stack.append(call(function, (*args, named) if named else args))

    def op_obj(self) -> None:
        function, *args = self._pop_mark()
        self._stack.append(call(function, (*args,)))

    def op_inst(self, names: str) -> None:
        args = self._pop_mark()
        self._stack.append(call(find(*names.split(" ", 1)), (*args,)))

    def op_build(self) -> None:
        state = self._stack.pop()
        build(self._stack[-1], state)

    def op_binpersid(self) -> None:
        kind, *data = self._stack.pop()
        if kind == "storage" and self._storages is not None:
            self._stack.append(storage(self._storages, *data))
        elif kind == "module":  # files from before the zip archive say here what the source of a class was
            self._stack.append(data[0])
        elif kind == "reduce_package":  # torch.package: a number, a function, its arguments; the oldest have no number
            number = data[0] if len(data) == 3 else None
            if number is None or number not in self._reduced:
                self._reduced[number] = call(*data[-2:])
            self._stack.append(self._reduced[number])
        else:
            self._unknown()


@cache
def known() -> dict[str, Any]:
    """Return what is looked up and called, by dotted name."""
    ours = [
        each if isinstance(each, tuple) else (each, f"{each.__module__}.{each.__qualname__}") for each in harmless()
    ]
    return {**allowed_globals(), **{name: value for value, name in ours}}


@cache
def _identities() -> frozenset[int]:
    return frozenset(map(id, known().values()))


def find(module: Any, name: Any) -> Any:
    """Return what is known to be harmless, or what stands for a name."""
    if type(module) is not str or type(name) is not str:
        raise _misused(name)
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    full = f"{module}.{name}"
    return known()[full] if full in known() else Unknown(full)


def call(function: Any, args: Any) -> Any:
    """Return what a known function or class makes of arguments that are known, or what stands for it."""
    if type(args) is not tuple:
        raise _misused(args)
    if isinstance(function, Unknown):
        kind = args[0] if function.name == RECONSTRUCTOR and args and isinstance(args[0], Unknown) else function
        return Unknown(kind.name, args)
    if id(function) not in _identities():
        raise _misused(function)
    unknown = next((each for each in args if isinstance(each, Unknown)), None)
    if unknown is not None:
        return Unknown(unknown.name, args)
    if function in HASHING and args:
        pairs = function is OrderedDict and not isinstance(args[0], dict)
        hashable([pair[0] for pair in args[0]] if pairs else args[0])
    made = function(*args)
    # NumPy believes what a pickle says of arrays of records and of objects: nothing is made of those
    return Unknown("numpy.dtype", args) if isinstance(made, np.dtype) and id(type(made)) not in _identities() else made


def build(target: Any, state: Any) -> None:
    """Give an object its state."""
    if isinstance(target, Unknown):
        target.state = state
    elif type(target) in (OrderedDict, Namespace) and not any(hasattr(type(target), name) for name in state):
        vars(target).update(state)
    elif type(target) is np.ndarray and any(isinstance(each, Unknown) for each in state):
        raise UnsafePickleError("it has an array of objects or records, which NumPy builds without looking")
    elif type(target) in (Tensor, nn.Parameter, np.ndarray):
        target.__setstate__(state)
    elif not isinstance(target, np.dtype) or not is_native(*state):
        raise _misused(target)


def is_native(version: Any, order: Any, *others: Any) -> bool:
    """Return whether the state of a dtype adds nothing to it; any other can make NumPy crash on an array of it."""
    native = order in ("|", "=", "<" if sys.byteorder == "little" else ">")
    return native and len(others) == 6 and others[:3] == (None, None, None)


def storage(storages: Storages, kind: Any, key: Any, _: Any, count: int, view: Any = None) -> Any:
    """Return a storage with its dtype, or the part of one that torch before 0.4 had views of."""
    dtype = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        raise _misused(kind)
    found = storages(hashable([key])[0], dtype, count)
    if view is not None:
        _, offset, size = view
        found = found[offset * dtype.itemsize : (offset + size) * dtype.itemsize]
    return torch.storage.TypedStorage(wrap_storage=found, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def extend(target: Any, items: list[Any]) -> None:
    """Add to a list or set; what an unknown object holds does not matter."""
    if type(target) is list:
        target.extend(items)
    elif type(target) is set:
        target.update(hashable(items))
    elif not isinstance(target, Unknown):
        raise _misused(target)


def set_items(target: Any, items: list[Any]) -> None:
    """Put keys and values, by turns, into a dict; what an unknown object holds does not matter."""
    if type(target) in MAPPINGS:
        for key, value in zip(hashable(items[::2]), items[1::2], strict=True):
            target[key] = value
    elif not isinstance(target, Unknown):
        raise _misused(target)


def hashable(keys: Iterable[Any]) -> list[Any]:
    """Return keys whose hashes take no time: tuples of tuples of tuples can take forever."""
    found = list(keys)
    for key in found:
        if isinstance(key, tuple) and any(isinstance(each, tuple) for each in key):
            raise pickle.UnpicklingError("it has a key of nested tuples")
    return found


def _misused(value: Any) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"it does with a {type(value).__name__} what no checkpoint does")
