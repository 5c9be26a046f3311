"""A plain tensor in the very words of `torch.save`, understood as a whole.

Every tensor of a state dict is spelled by the same forty operations, which differ in numbers alone. One look at all of
them takes a tenth of the time that taking them one by one does. What is spelled in any other way is not looked at here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_INT, _GET, _PUT = rb"(?:K.|M..|J....)", rb"(h.|j....)", rb"(q.|r....|)"
#: a tuple of at most eight numbers
_DIMS = rb"(\)|%b\x85|%b{2}\x86|%b{3}\x87|\(%b{4,8}t)" % ((_INT,) * 4)
#: what follows the function that rebuilds a tensor: its arguments and the call.
_TENSOR = re.compile(
    rb"\(\(%(get)b%(get)bX(.)\0\0\0(\d+)%(put)b%(get)b(%(int)b)t%(put)bQ"  # the storage
    rb"(%(int)b)%(dims)b%(put)b%(dims)b%(put)b([\x88\x89])"  # offset, shape, strides, whether it requires a gradient
    rb"%(get)b\)R%(put)bt%(put)bR%(put)b" % {b"get": _GET, b"put": _PUT, b"int": _INT, b"dims": _DIMS},
    re.DOTALL,
)
#: what an integer begins with that may be negative
_SIGNED = ord("J")


class Spelled(NamedTuple):
    """What a pickle says of a tensor; what it refers to stands for itself, by its number in the memo.

    Attributes:
        end: where the next operation is.
        tag: what says that it is a storage.
        kind: the class of the storage.
        key: the key of the storage.
        location: where the storage was.
        elements: how many elements that has.
        offset: where the tensor begins.
        shape: its shape.
        strides: its strides.
        requires_grad: whether it requires a gradient.
        hooks: the class of its hooks, of which there are none.
        puts: the numbers, if any, under which the memo keeps the key, what tells the storage, shape, strides, hooks,
            all arguments together, and the tensor.
    """

    end: int
    tag: int
    kind: int
    key: str
    location: int
    elements: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    hooks: int
    puts: tuple[int | None, ...]


def read(program: memoryview, place: int) -> Spelled | None:
    """Return what a pickle spells at a place, behind the function that rebuilds a tensor; None where it is not that."""
    match = _TENSOR.match(program, place)
    if match is None:
        return None
    tag, kind, length, key, a, location, count, b, offset, shape, c, strides, d, flag, hooks, e, f, g = match.groups()
    if length[0] != len(key):
        return None
    return Spelled(
        match.end(),
        _number(tag),
        _number(kind),
        key.decode(),
        _number(location),
        _integer(count),
        _integer(offset),
        _dims(shape),
        _dims(strides),
        flag == b"\x88",
        _number(hooks),
        tuple([int.from_bytes(put[1:], "little") if put else None for put in (a, b, c, d, e, f, g)]),
    )


def _number(operation: bytes) -> int:
    return int.from_bytes(operation[1:], "little")


@lru_cache(maxsize=1024)
def _integer(operation: bytes) -> int:
    return int.from_bytes(operation[1:], "little", signed=operation[0] == _SIGNED)


@lru_cache(maxsize=1024)  # most shapes and strides occur again and again
def _dims(operations: bytes) -> tuple[int, ...]:
    return tuple([_integer(each) for each in re.findall(_INT, operations, re.DOTALL)])
