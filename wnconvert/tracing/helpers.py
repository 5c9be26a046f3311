"""Helper functions that cannot be looked into: one call of them becomes one node.

A forward may hand a value to a function that inspects its shape, or to one of `math`. torch.fx patches the namespaces
of user code to notice that. Here the method that calls the function runs with a namespace of its own, a copy in which
the function writes a node; the user's module is left alone.
"""

from __future__ import annotations

import copy
import dis
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from types import CodeType, FrameType, FunctionType, SimpleNamespace
from typing import Any

from wnconvert.tracing.proxies import is_value, leaves_in
from wnconvert.weighted_op import registered_functions

_CONTAINERS = (list, dict, set, deque)
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]

#: packages whose functions are traced by themselves
_TRACED = ("torch", "builtins", "wnconvert")


@dataclass(frozen=True)
class Helper:
    """A function that one method calls by a name of its namespace.

    Attributes:
        caller: the code of the method.
        name: the name.
        value: the function, or the module `math`.
    """

    caller: CodeType
    name: str
    value: Any


def helper_that_failed(error: BaseException) -> Helper | None:
    """Return the function that a method of a stand-in called when ``error`` was raised, if it can be one node."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    own = [index for index, frame in enumerate(frames) if _is_method_of_a_stand_in(frame)]
    if not own or own[-1] + 1 >= len(frames):
        return None
    caller, called = frames[own[-1]], frames[own[-1] + 1].f_code
    function = caller.f_globals.get(called.co_name)
    if isinstance(function, FunctionType) and function.__code__ is called:
        if function.__module__.partition(".")[0] in _TRACED or "<locals>" in function.__qualname__:
            return None
        return Helper(caller.f_code, called.co_name, function)
    if called.co_name in ("__float__", "__int__"):
        for name in caller.f_code.co_names:
            value = caller.f_globals.get(name)
            if value is math or (callable(value) and getattr(value, "__module__", "") == "math"):
                return Helper(caller.f_code, name, value)
    return None


def rebound(
    cls: type, helpers: Iterable[Helper], write: Callable[..., Any], copies: dict[int, Any] | None = None
) -> dict[str, FunctionType]:
    """Return the methods of a class that call helpers, in namespaces in which those write nodes.

    Args:
        cls: the class.
        helpers: the functions that are to be one node, and what else stands for another thing in a trace.
        write: called with the function, its arguments and its keywords; writes the node.
        copies: the copies of containers that were made for other classes, by the id of the container.
    """
    copies = {} if copies is None else copies
    methods: dict[str, FunctionType] = {}
    for helper in helpers:
        found = _method(cls, helper.caller)
        if found is None:
            continue
        name, method = found[0], methods.get(*found)
        namespace = {**method.__globals__, helper.name: _standing_for(helper.value, write, copies)}
        methods[name] = FunctionType(
            method.__code__, namespace, method.__name__, method.__defaults__, method.__closure__
        )
        methods[name].__kwdefaults__ = method.__kwdefaults__
        methods[name].__dict__.update(method.__dict__)
        methods[name].__annotations__ = method.__annotations__
    return methods


def own_names(cls: type) -> Iterator[Helper]:
    """Yield what the methods of a class find in their module and must not find in a trace.

    That is `type`, which nothing but another function of that name can answer, containers, which are the user's, and
    weighted ops that are functions. A method that sets a global gets a namespace of its own.
    """
    one_node = registered_functions()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in _TRACED:
            continue
        for method in base.__dict__.values():
            if not isinstance(method, FunctionType):
                continue
            code, namespace = method.__code__, method.__globals__
            for name in code.co_names:
                value = type if name == "type" else namespace.get(name)
                if value is type or isinstance(value, _CONTAINERS) or _is_in(one_node, value):
                    yield Helper(code, name, value)
            if _STORE_GLOBAL in code.co_code[::2]:
                yield Helper(code, "__name__", namespace.get("__name__"))


def _is_in(functions: frozenset[FunctionType], value: Any) -> bool:
    return isinstance(value, FunctionType) and value in functions


def _type_of(x: Any, *args: Any) -> Any:
    return x.type_told() if is_value(x) else type(x, *args)


def _standing_for(value: Any, write: Callable[..., Any], copies: dict[int, Any]) -> Any:
    if value is type:
        return _type_of
    if value is math:
        functions = {name: _writing(each, write) for name, each in vars(math).items() if callable(each)}
        return SimpleNamespace(**{**vars(math), **functions})
    if isinstance(value, _CONTAINERS):
        return copies.setdefault(id(value), copy.copy(value))
    return _writing(value, write) if callable(value) else value


def _writing(value: Any, write: Callable[..., Any]) -> Any:
    @wraps(value)
    def one_node(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_value, leaves_in((args, kwargs)))):
            return write(value, args, kwargs)
        return value(*args, **kwargs)

    return one_node


def _is_method_of_a_stand_in(frame: FrameType) -> bool:
    cls = type(frame.f_locals.get("self"))
    return "shadowed" in cls.__dict__ and _method(cls, frame.f_code) is not None


def _method(cls: type, code: CodeType) -> tuple[str, FunctionType] | None:
    """Return the name and the function of the method that has a code."""
    for name in (code.co_name, "forward"):
        for base in cls.__mro__:
            method = base.__dict__.get(name)
            if isinstance(method, FunctionType) and method.__code__ is code:
                return name, method
    return None
