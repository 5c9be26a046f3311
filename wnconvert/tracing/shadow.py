"""A stand-in for a model, whose forward can be run on proxies while the model itself is left alone.

The stand-in has modules of its own, of classes that derive from the model's, copies of all plain attributes, and the
model's own tensors, which no call reaches: `wnconvert.tracing.tracer` sees each. So whatever a forward does falls on
the stand-in. torch.fx patches `nn.Module` for the whole process instead, where another thread meets the patches.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wnconvert.graph.entries import join, own_tensors
from wnconvert.reasons import Why
from wnconvert.torch_private import (
    BUFFERS,
    CALL_HOOKS,
    COMPILED_CALL,
    MODULES,
    PARAMETERS,
    REGISTERED,
    STATE_DICT_HOOKS,
    STATE_METHODS,
    buffers_of,
    children_of,
    parameters_of,
)
from wnconvert.tracing.hazards import Hazard
from wnconvert.tracing.helpers import Helper, own_names, rebound
from wnconvert.tracing.proxies import is_value
from wnconvert.tracing.writer import Writer

_STATE_METHODS = (
    *("state_dict", "load_state_dict", "get_extra_state", "set_extra_state", "train", "eval", "requires_grad_"),
    *("zero_grad", *STATE_METHODS),
)
#: what deepcopy would hand back as it is
_ATOMIC = (int, float, str, bool, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size)
#: the same, to be asked about most attributes: by their very class, which is quick
_ATOMS = frozenset(_ATOMIC)
#: what most other attributes of modules are, and empty
_EMPTIED = frozenset((dict, OrderedDict, list, set))


class Overseer(Writer):
    """What stand-ins ask of who runs their forwards; `wnconvert.tracing.tracer` answers."""

    helpers: set[Helper]
    copies: dict[int, Any]
    call: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
    mode_of: Callable[[bool], bool]
    takes: Callable[[nn.Module, str, Any], bool]


class Shadow:
    """What the classes of stand-ins have in common; comes before the model's class in the method resolution order."""

    observer: ClassVar[Overseer]
    shadowed: ClassVar[type]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # the model's class may register its subclasses somewhere, and this is none
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self.observer.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)  # type: ignore[misc]
        return self.observer.fetch(value) if isinstance(value, Tensor) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if self.observer.takes(self, name, value):  # type: ignore[arg-type]
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self.observer.observe(Hazard.STATE, f"{name!r} is deleted")
        super().__delattr__(name)

    @property
    def training(self) -> bool:
        """Whether the module is in training mode; the observer decides in which one it traces."""
        return self.observer.mode_of(self.__dict__["training"])

    def register_buffer(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Note that a forward registers something."""
        self.observer.observe(Hazard.STATE, f"{name!r} is registered")
        super().register_buffer(name, *args, **kwargs)  # type: ignore[misc]

    register_parameter = register_buffer

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Note that a forward reads or writes all tensors by name."""
        for _, parameter in super().named_parameters():  # type: ignore[misc]
            self.observer.remark(parameter, Why.FORWARD_LOOKS(where="a state dict"))
        return super().state_dict(*args, **kwargs)  # type: ignore[misc]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Note that a forward reads or writes all tensors by name."""
        self.observer.observe(Hazard.STATE, "a state dict is loaded")
        self.state_dict()
        raise self.observer.undecidable("whether a state dict fits")


def shadow_of(model: nn.Module, observer: Overseer) -> nn.Module:
    """Return a stand-in for ``model``, observed by ``observer``."""
    classes: dict[type, type] = {}
    modules = dict(model.named_modules())
    memo: dict[int, Any] = dict(tensor_attributes(modules)[1])
    for module in modules.values():
        memo[id(module)] = object.__new__(_class_of(module, observer, classes))
        if not isinstance(module, torch.jit.ScriptModule):
            memo |= {id(tensor): tensor for _, tensor in own_tensors(module)}
    for module in modules.values():
        memo[id(module)].__dict__.update(_contents(module, memo))
    root: nn.Module = memo[id(model)]
    return root


def is_leaf(cls: type) -> bool:
    """Return whether modules of a class are one node in any graph: torch's own, and those without Python code."""
    if issubclass(cls, torch.jit.ScriptModule):
        return True
    return cls.__module__.startswith(("torch.nn", "torch.ao.nn")) and not issubclass(cls, nn.Sequential)


def reason_for_one_node(module: nn.Module, cls: type, is_root: bool = False) -> Hazard | None:
    """Return what is lost of a module where its forward alone is traced, or None.

    Args:
        module: a module, or its stand-in.
        cls: the module's own class.
        is_root: it would be the graph module, so that its way of saving its state counts too.
    """
    if any(getattr(module, hooks, None) for hooks in CALL_HOOKS):
        return Hazard.HOOK
    if "forward" in module.__dict__ or cls.__call__ is not nn.Module.__call__:
        return Hazard.CALL
    if getattr(module, COMPILED_CALL, None) is not None:
        return Hazard.CALL
    if is_root and any(getattr(module, hooks, None) for hooks in STATE_DICT_HOOKS):
        return Hazard.KEYS
    if is_root and any(getattr(cls, name) is not getattr(nn.Module, name) for name in _STATE_METHODS):
        return Hazard.KEYS
    return None


def fingerprints(shadow: nn.Module) -> Mapping[int, Any]:
    """Return what the plain attributes of all modules hold, by module: containers item by item, all else as objects.

    The containers of their classes count too.
    """
    return {
        id(module): (_fingerprint(module.__dict__, 4), _fingerprint(_containers(type(module)), 4))
        for module in shadow.modules()
        if not is_leaf(_own_class(module))
    }


def tensor_attributes(modules: Mapping[str, nn.Module]) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return the tensors that are plain attributes of modules, by dotted name, and all that attributes hold, by id.

    The latter are also those in lists, tuples and dicts.

    Args:
        modules: the modules, by dotted name.
    """
    alone: dict[str, Tensor] = {}
    held: dict[int, Tensor] = {}
    for path, module in modules.items():
        for name, value in _plain_attributes(module):
            if isinstance(value, Tensor):
                alone[join(path, name)] = value
            pending = [value]
            while pending:
                value = pending.pop()
                if isinstance(value, Tensor):
                    held[id(value)] = value
                elif isinstance(value, dict):
                    pending += value.values()
                elif isinstance(value, (list, tuple)):
                    pending += value
    return alone, held


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that may hold something, without what is registered."""
    for name, value in module.__dict__.items():
        kind = type(value)
        if kind in _ATOMS or (kind in _EMPTIED and not value) or name in REGISTERED:
            continue
        if kind is not tuple or not _ATOMS.issuperset(map(type, value)):
            yield name, value


def _own_class(module: nn.Module) -> type:
    return getattr(type(module), "shadowed", type(module))


def _fingerprint(value: Any, depth: int) -> Any:
    if is_value(value):
        return id(value)  # asked what it is, it would take that for the forward's question
    if type(value) in _EMPTIED and not value and depth:
        return ()  # as below, and what most attributes are
    if isinstance(value, dict) and depth:
        return tuple([(id(key), _fingerprint(item, depth - 1)) for key, item in value.items()])
    if isinstance(value, (list, tuple, set)) and depth:
        return tuple([_fingerprint(item, depth - 1) for item in value])
    if isinstance(value, _ATOMIC):
        return value if not isinstance(value, float) else repr(value)
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict) and depth and not isinstance(value, (nn.Module, Tensor)) and not callable(value):
        return (id(value), _fingerprint(held, depth - 1))
    return id(value)


def _containers(cls: type) -> dict[str, Any]:
    """Return the lists, dicts and sets that a class holds, which all its modules share."""
    own = [base for base in cls.__mro__ if issubclass(base, nn.Module) and base is not nn.Module and not is_leaf(base)]
    return {
        name: value
        for base in reversed(own)
        for name, value in vars(base).items()
        if isinstance(value, (list, dict, set)) and not name.startswith("__")
    }


def _class_of(module: nn.Module, observer: Overseer, classes: dict[type, type]) -> type:
    # compiled code cannot be derived from; it is one node whatever it holds
    cls = nn.Module if isinstance(module, torch.jit.ScriptModule) else type(module)
    if cls not in classes:
        members: dict[str, Any] = {
            "observer": observer,
            "shadowed": cls,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            **{name: copy.copy(value) for name, value in _containers(cls).items()},
            **rebound(
                cls,
                (*observer.helpers, *own_names(cls)),
                partial(observer.create_proxy, "call_function"),
                observer.copies,
            ),
        }
        classes[cls] = type(cls.__name__, (Shadow, cls), members)
    return classes[cls]


def _contents(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    if isinstance(module, torch.jit.ScriptModule):
        return dict(nn.Module().__dict__)
    contents = dict(module.__dict__)
    contents[PARAMETERS], contents[BUFFERS] = dict(parameters_of(module)), dict(buffers_of(module))
    children = children_of(module).items()
    contents[MODULES] = {name: None if child is None else memo[id(child)] for name, child in children}
    if not is_leaf(type(module)):
        for name, value in contents.items():
            if type(value) in _ATOMS or name in REGISTERED:
                continue
            if not isinstance(value, (*_ATOMIC, Tensor)):
                contents[name] = _copied(value, memo)
    return contents


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _EMPTIED and not value:
        return type(value)()
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - attributes may be of any class
        return _Uncopied()


class _Uncopied:
    """Stands for an attribute that cannot be copied, and so must not be used: a lock, a file."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"an attribute that cannot be copied is asked for {name!r}")
