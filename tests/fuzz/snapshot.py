"""What an object is at one time, down to the identity and the bits of every tensor, to see that nothing changed it."""

from __future__ import annotations

import functools
import gc
import hashlib
import math
import random
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch._dynamo  # replaces functions of torch when it is first imported
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs import MODULES

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.layout, type(None))
#: asked first, for most of what hangs on a model is one of these, and a class is found faster than what it derives from
PLAIN_KINDS = frozenset(_PLAIN)
DICTS = frozenset({dict, OrderedDict})
#: Python and torch themselves note these in a class when they first copy or compile an object of it
_NOTED_IN_CLASSES = {"__slotnames__", "__annotations_cache__"}
#: what has functions and methods that tracing might be tempted to replace
_PATCHABLE = {"torch": torch, "F": F, "random": random, "numpy.random": np.random, "math": math, "Module": nn.Module}


class Snapshot:
    """The facts of an object and of all that hangs on it, by the way to each.

    Args:
        root: the object.
    """

    def __init__(self, root: Any) -> None:
        self.facts: dict[str, Any] = {}
        self.proxies: list[str] = []
        #: what was seen, alive, so that no id is used again
        self._seen: dict[int, tuple[str, Any]] = {}
        self._walk(root, "")

    def changes(self, root: Any) -> list[str]:
        """Return the ways to all that is not as it was."""
        now = Snapshot(root)
        changed = [path for path, fact in now.facts.items() if self.facts.get(path) != fact]
        return now.proxies + changed + [f"{path} (gone)" for path in self.facts if path not in now.facts]

    def _walk(self, value: Any, path: str) -> None:
        if type(value) in PLAIN_KINDS or isinstance(value, _PLAIN):
            self.facts[path] = (type(value), repr(value))
        elif isinstance(value, type):
            self.facts[path] = id(value)
        elif id(value) in self._seen:
            self.facts[path] = f"same as {self._seen[id(value)][0]}"
        else:
            self._seen[id(value)] = (path, value)
            if type(value) not in DICTS and isinstance(value, torch.fx.Proxy):
                self.proxies.append(f"{path} (a proxy)")
            self.facts[path] = (id(value), *_own_facts(value))
            for name, inner in _inner(value):
                self._walk(inner, f"{path}.{name}")


def _own_facts(value: Any) -> tuple[Any, ...]:
    if type(value) in DICTS:
        return (type(value), [repr(key) for key in value])
    if isinstance(value, Tensor):
        return tensor_facts(value)
    if isinstance(value, nn.Module):
        members = {name: id(member) for name, member in vars(type(value)).items() if name not in _NOTED_IN_CLASSES}
        return (type(value), members)
    if isinstance(value, Mapping):
        return (type(value), [repr(key) for key in value])
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return (type(value), len(value))
    return (type(value), *generator_state(value))


def generator_state(value: Any) -> tuple[Any, ...]:
    """Return the state of a source of random numbers, and nothing for anything else."""
    if isinstance(value, torch.Generator):
        return (value.get_state().numpy().tobytes(),)
    if isinstance(value, np.random.Generator):
        return (repr(value.bit_generator.state),)
    if isinstance(value, random.Random):
        return (value.getstate(),)
    return ()


def tensor_facts(tensor: Tensor) -> tuple[Any, ...]:
    """Return all that two tensors must have in common to be one and the same."""
    version = None if tensor.is_inference() else tensor._version
    return (
        type(tensor),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.data_ptr(),
        version,
        digest(tensor),
    )


def digest(tensor: Tensor) -> bytes:
    """Return a hash of a tensor's bits."""
    flat = tensor.detach().contiguous().view(-1)
    return hashlib.blake2b(flat.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


def _inner(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what hangs on an object."""
    if type(value) in DICTS or isinstance(value, Mapping):
        yield from ((repr(key), entry) for key, entry in list(value.items()))
        yield from (("key", key) for key in value if type(key) not in PLAIN_KINDS and not isinstance(key, _PLAIN))
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((str(index), entry) for index, entry in enumerate(value))
    elif isinstance(value, Tensor):
        yield "grad", value.grad if value.is_leaf else None
        yield "_backward_hooks", value._backward_hooks
        yield from vars(value).items()
    elif isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        yield from ((f"closure{index}", _contents(cell)) for index, cell in enumerate(cells))
        yield "defaults", value.__defaults__
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "function", value.__func__
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif not isinstance(value, types.ModuleType):
        yield from list(getattr(value, "__dict__", {}).items())


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty so far
        return None


class World:
    """The state of the process that no conversion may change: generators, modes, and what can be patched."""

    def __init__(self) -> None:
        # not the builtins: they are everybody's
        self._globals = {
            module.__name__: {name: value for name, value in vars(module).items() if name != "__builtins__"}
            for module in MODULES
        }
        values = [value for each in self._globals.values() for value in each.values()]
        self._caches = [(value, dict(value)) for value in values if isinstance(value, dict)]
        self._held = {name: _can_change(name, each) for name, each in self._globals.items()}
        self._snapshot = Snapshot(self._held)
        self._facts = _facts_of_the_process()
        self._patchable = {name: dict(vars(owner)) for name, owner in _PATCHABLE.items()}

    def changes(self) -> list[str]:
        """Return what is not as it was."""
        now = _facts_of_the_process()
        changed = [name for name, fact in self._facts.items() if now[name] != fact]
        for owner, before in self._patchable.items():
            after = vars(_PATCHABLE[owner])
            # what is new is a module that was imported at last, and no harm
            changed += [f"{owner}.{name}" for name, value in before.items() if after.get(name) is not value]
        for module in MODULES:
            before, after = self._globals[module.__name__], vars(module)
            names = {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}
            changed += [f"global {module.__name__}.{name}" for name in sorted(names - {"__builtins__"})]
        changed += [f"global {path}" for path in self._snapshot.changes(self._held)]
        if changed:
            self._restore()
        return changed

    def _restore(self) -> None:
        """Undo the damage, so that one model's difference is not found again in all that follow."""
        for module in MODULES:
            vars(module).update(self._globals[module.__name__])
        for cache, contents in self._caches:
            cache.clear()
            cache.update(contents)


def _can_change(module: str, names: dict[str, Any]) -> dict[str, Any]:
    """Return a module's own values that may become others though they stay the same objects."""
    fixed = (*_PLAIN, type, types.ModuleType)
    own = {name: value for name, value in names.items() if not isinstance(value, fixed) and not name.startswith("__")}
    return {name: value for name, value in own.items() if getattr(value, "__module__", module) == module}


def _facts_of_the_process() -> dict[str, Any]:
    return {
        **random_state(),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "garbage collection": gc.isenabled(),
    }


def random_state() -> dict[str, Any]:
    """Return the state of each global source of random numbers."""
    name, keys, *rest = np.random.get_state()
    return {
        "random numbers of torch": torch.get_rng_state().numpy().tobytes(),
        "random numbers of Python": random.getstate(),
        "random numbers of NumPy": (name, keys.tobytes(), *rest),
    }


def seed_everything(seed: int) -> None:
    """Seed every global source of random numbers."""
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` notes the stack each time, for devices that are not
    random.seed(seed)
    np.random.seed(seed)
