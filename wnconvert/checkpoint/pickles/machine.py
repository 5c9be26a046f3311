"""Reading a pickle of `torch.save` or `torch.package` without the code that it names.

What `torch.load` with ``weights_only`` and `harmless` let through is built. Any other class or function, and
what calling it would give, is an `Unknown`. Pickles are programs for a stack machine, and the one here is all that
interprets them: what it can call and change is in `calls`. Each operation takes from a `Budget`
what it costs, so that no program takes longer than its size allows.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from pathlib import Path
from struct import unpack
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from wnconvert.checkpoint.pickles import plain_tensor
from wnconvert.checkpoint.pickles.calls import (
    MAPPINGS,
    build,
    charge,
    find,
    is_fine,
    known,
    known_ids,
    misused,
    with_attributes,
)
from wnconvert.checkpoint.pickles.inert import Unknown
from wnconvert.checkpoint.pickles.safety import first_line
from wnconvert.checkpoint.storage.claims import check_claims
from wnconvert.checkpoint.storage.limits import Budget
from wnconvert.checkpoint.storage.zip_archive import Archive
from wnconvert.errors import CheckpointError, UnsafePickleError
from wnconvert.torch_private import PARAMETER_WITH_STATE, SUBCLASS, rebuilt_tensor, validate_sparse_tensors

#: returns a storage, given its key and the dtype and number of its elements.
Storages: TypeAlias = Callable[[Any, torch.dtype, int], torch.UntypedStorage]
#: what `pickletools` reads in three times the time: every tensor has dozens.
SHORT: dict[Any, Callable[[IO[bytes]], int]] = {
    pickletools.uint1: lambda file: file.read(1)[0],
    pickletools.uint4: lambda file: unpack("<I", file.read(4))[0],
}
#: how an operation reads what follows it, and its name; by the byte that stands for it.
OPERATIONS: dict[bytes, tuple[Callable[[IO[bytes]], Any] | None, str]] = {
    each.code.encode("latin-1"): (SHORT.get(each.arg, getattr(each.arg, "reader", None)), each.name)
    for each in pickletools.opcodes
}
#: operations that push what follows them, those that push something new, and those that do nothing.
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
IDLE = ("PROTO", "FRAME", "STOP")
#: how Python's oldest protocols make an object: they name its class as an argument.
RECONSTRUCTOR = "copyreg._reconstructor"
HASHING = (set, *MAPPINGS)
#: what refers to a storage has no more parts.
LONGEST_ID = 8
#: integers beyond these can be chosen to have one hash, and so can tuples of any; so many different ones may have it.
LARGEST_KEY, ALIKE = 1 << 63, 64


def load(path: Path, file: IO[bytes], storages: Storages | None = None, budget: Budget | None = None) -> Any:
    """Return the object of the pickle that ``file`` goes on with, and leave the file behind its end.

    Args:
        path: where the pickle comes from, for messages.
        file: where to read.
        storages: gives the storages that the pickle refers to; without, it may refer to none.
        budget: what is left of the work that may be made of the file; by default, all of it.

    Raises:
        CheckpointError: it is damaged, or does what no checkpoint needs.
    """
    try:
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            machine = _Machine(storages, budget or Budget(path))
            content = machine.run(file)
            check_claims((("a tensor", each) for each in machine.tensors), path, path.stat().st_size)
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
            if found[key].nbytes() != count * dtype.itemsize:  # which `torch.load` refuses, unless it maps the file
                raise CheckpointError(f"{str(archive.path)!r} is damaged: its tensors do not have the size they claim")
        return found[key]

    return storage


class _Machine:
    """The stack machine that a pickle is a program of. Its operations have the names that `pickletools` gives them.

    Attributes:
        tensors: all that it made.
    """

    def __init__(self, storages: Storages | None, budget: Budget) -> None:
        self.tensors: list[Tensor] = []
        self._storages = storages
        self._budget = budget
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._reduced: dict[int, Any] = {}
        self._hashed: dict[int, set[Any]] = {}
        self._file: IO[bytes] = BytesIO()
        #: all of the program, where it is in memory
        self._program: memoryview | None = None

    def run(self, file: IO[bytes]) -> Any:
        """Return what the program leaves on the stack."""
        self._file, self._program = file, file.getbuffer() if isinstance(file, BytesIO) else None
        actions = {code: (reader, self._action(name)) for code, (reader, name) in OPERATIONS.items()}
        left, code = self._budget.steps, b""
        while code != pickle.STOP:
            left -= 1
            if left < 0:
                break
            code = file.read(1)
            if code not in actions:
                raise pickle.UnpicklingError("it has no end" if not code else "it has an operation that there is not")
            reader, action = actions[code]
            if reader is None:
                action()
            else:
                action(reader(file))
        self._budget.step(self._budget.steps - left)
        return self._stack.pop()

    def _action(self, name: str) -> Callable[..., None]:
        """Return what an operation does, given what follows it."""
        if name in LITERALS:
            return self._push
        if name in FRESH:
            return partial(self._fresh, FRESH[name])
        return self._idle if name in IDLE else getattr(self, f"op_{name.lower()}", self._unknown)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _fresh(self, make: Callable[[], Any]) -> None:
        self._stack.append(make())

    def _idle(self, arg: Any = None) -> None:
        pass

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
        found = self._memo[index]
        tensor = self._plain_tensor() if found is rebuilt_tensor else None
        self._stack.append(found if tensor is None else tensor)

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
        self._set_items(self._stack[-1], items)

    def op_frozenset(self) -> None:
        items = self._pop_mark()
        self._stack.append(frozenset(self._hashable(items)))

    def op_append(self) -> None:
        item = self._stack.pop()
        self._extend(self._stack[-1], [item])

    def op_appends(self) -> None:
        items = self._pop_mark()
        self._extend(self._stack[-1], items)

    op_additems = op_appends

    def op_setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items(self._stack[-1], [key, value])

    def op_setitems(self) -> None:
        items = self._pop_mark()
        self._set_items(self._stack[-1], items)

    def op_global(self, names: str) -> None:
        self._stack.append(find(*names.split(" ", 1)))

    def op_stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(find(module, name))

    def op_reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, args))

    op_newobj = op_reduce

    def op_newobj_ex(self) -> None:
        named, args, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if type(args) is not tuple:
            raise misused(args)
        self._budget.step(len(args))
        self._stack.append(self._call(function, (*args, named) if named else args))

    def op_obj(self) -> None:
        function, *args = self._pop_mark()
        self._stack.append(self._call(function, (*args,)))

    def op_inst(self, names: str) -> None:
        args = self._pop_mark()
        self._stack.append(self._call(find(*names.split(" ", 1)), (*args,)))

    def op_build(self) -> None:
        state = self._stack.pop()
        charge(self._budget, (state,))
        build(self._stack[-1], state)

    def op_binpersid(self) -> None:
        kind, *data = self._short(self._stack.pop())
        if kind == "storage" and self._storages is not None:
            self._stack.append(storage(self._storages, *data))
        elif kind == "module":  # files from before the zip archive say here what the source of a class was
            self._stack.append(data[0])
        elif kind == "reduce_package":  # torch.package: a number, a function, its arguments; the oldest have no number
            number = data[0] if len(data) == 3 and type(data[0]) is int else None
            if number is None or number not in self._reduced:
                made = self._call(*data[-2:])
                if number is not None:
                    self._reduced[number] = made
                self._stack.append(made)
            else:
                self._stack.append(self._reduced[number])
        else:
            self._unknown()

    def _short(self, value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple or not 2 <= len(value) <= LONGEST_ID:
            raise misused(value)
        return value

    def _plain_tensor(self) -> Tensor | None:
        """Return the tensor that is spelled next, if `plain_tensor` knows the words, and go on behind it."""
        if self._program is None or self._storages is None:
            return None
        start, memo = self._file.tell(), self._memo
        spelled = plain_tensor.read(self._program, start)
        if spelled is None or memo.get(spelled.hooks) is not OrderedDict or spelled.location not in memo:
            return None
        tag, kind = memo.get(spelled.tag), memo.get(spelled.kind)
        if type(tag) is not str or tag != "storage":
            return None
        self._budget.step(spelled.end - start)  # there are no more operations than bytes
        self._file.seek(spelled.end)
        place = (kind, spelled.key, memo[spelled.location], spelled.elements)
        hooks: OrderedDict[str, Any] = OrderedDict()
        stored = storage(self._storages, *place)
        args = (stored, spelled.offset, spelled.shape, spelled.strides, spelled.requires_grad, hooks)
        made = rebuilt_tensor(*args)
        self.tensors.append(made)
        kept = (spelled.key, (tag, *place), spelled.shape, spelled.strides, hooks, args, made)
        memo.update({put: each for put, each in zip(spelled.puts, kept, strict=True) if put is not None})
        return made

    def _call(self, function: Any, args: Any) -> Any:
        """Return what a known function or class makes of arguments that are known, or what stands for it."""
        if type(args) is not tuple:
            raise misused(args)
        if isinstance(function, Unknown):
            kind = args[0] if function.name == RECONSTRUCTOR and args and isinstance(args[0], Unknown) else function
            return Unknown(kind.name, args)
        if id(function) not in known_ids():
            raise misused(function)
        charge(self._budget, args)
        unknown = next((each for each in args if isinstance(each, Unknown)), None)
        if unknown is not None:
            return Unknown(unknown.name, args)
        if not is_fine(function, args):
            raise misused(function)
        if function in HASHING and args:
            pairs = function is OrderedDict and not isinstance(args[0], dict)
            self._hashable([pair[0] for pair in args[0]] if pairs else args[0])
        return self._made(function, args)

    def _made(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Return what a known function or class makes of arguments that it may have."""
        if function is known()[SUBCLASS]:
            function, kind, args, state = args
            made = self._call(function, args)
            made = made if isinstance(made, Unknown) or type(made) is kind else made.as_subclass(kind)
            return with_attributes(made, state)
        if function is known()[PARAMETER_WITH_STATE]:
            return with_attributes(self._made(nn.Parameter, args[:2]), args[3])
        made = function(*args)
        if isinstance(made, Tensor):
            self.tensors.append(made)
        # NumPy believes what a pickle says of arrays of records and of objects: nothing is made of those
        return (
            Unknown("numpy.dtype", args) if isinstance(made, np.dtype) and id(type(made)) not in known_ids() else made
        )

    def _extend(self, target: Any, items: list[Any]) -> None:
        """Add to a list or set; what an unknown object holds does not matter."""
        if type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(self._hashable(items))
        elif not isinstance(target, Unknown):
            raise misused(target)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        """Put keys and values, by turns, into a dict; what an unknown object holds does not matter."""
        if type(target) in MAPPINGS:
            for key, value in zip(self._hashable(items[::2]), items[1::2], strict=True):
                target[key] = value
        elif not isinstance(target, Unknown):
            raise misused(target)

    def _hashable(self, keys: Iterable[Any]) -> list[Any]:
        """Return keys whose hashes take no time, and tell them apart: neither goes without saying.

        Tuples of tuples of tuples can take forever. Many keys of one hash are compared with one another.
        """
        found = list(keys)
        for key in found:
            kind = type(key)
            if kind is str or (kind is int and abs(key) < LARGEST_KEY):
                continue
            if isinstance(key, (tuple, frozenset)):
                self._budget.step(len(key))
                if any(isinstance(each, (tuple, frozenset)) for each in key):
                    raise pickle.UnpicklingError("it has a key of nested tuples")
            alike = self._hashed.setdefault(hash(key), set())
            alike.add(key)
            if len(alike) > ALIKE:
                raise pickle.UnpicklingError("it has keys that are made to be slow")
        return found


def storage(storages: Storages, kind: Any, key: Any, _: Any, count: int, view: Any = None) -> Any:
    """Return a storage with its dtype, or the part of one that torch before 0.4 had views of."""
    dtype = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, "dtype", None)
    if not isinstance(dtype, torch.dtype):
        raise misused(kind)
    if type(key) not in (str, int) or type(count) is not int:
        raise misused(key)
    found = storages(key, dtype, count)
    if view is not None:
        _, offset, size = view
        found = found[offset * dtype.itemsize : (offset + size) * dtype.itemsize]
    return torch.storage.TypedStorage(wrap_storage=found, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]
