"""The classes of modules with composed weights.

A module that holds the parts gets a class that derives from its own and has the weight as a property. So the module
stays what it was: ``isinstance``, ``.weight``, its methods and its hooks. Unlike with torch's parametrizations, the
class is never changed afterwards: what is in force for one module is kept in the module, and a copy of it can be
restored without harm to the original.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch import Tensor, nn

from wnconvert.errors import WnconvertError
from wnconvert.modules import normalized
from wnconvert.modules.normalized import Kept, kept
from wnconvert.modules.resetting import resetter
from wnconvert.torch_private import (
    FLAT_WEIGHT_REFS,
    FLAT_WEIGHTS,
    INIT_FLAT_WEIGHTS,
    LOAD,
    WEIGHTS_HAVE_CHANGED,
    flat_weight_names,
    load_as,
)

#: what makes a derived class, besides its base: names of composed weights and of aliases, and whether it is that of a
#: root whose calls compose weights together
_Form = tuple[tuple[str, ...], tuple[str, ...], bool]

#: weak, because users' classes may be local to a function
_classes: WeakKeyDictionary[type, WeakValueDictionary[_Form, type]] = WeakKeyDictionary()


def rederive(module: nn.Module, what: Kept) -> None:
    """Set what is in force for ``module``, and give it the class for that: its own, if nothing is.

    The parts of composed weights must be registered, and the weights themselves gone.
    """
    base, is_any = plain_class(module), bool(what)
    if what.weights and isinstance(module, nn.RNNBase):
        module.__dict__.pop(FLAT_WEIGHTS, None)
        module.__dict__[FLAT_WEIGHT_REFS] = []
    normalized.keep(module, what if is_any else None)
    # nn.Module's own way to set attributes costs as much as all the rest
    object.__setattr__(module, "__class__", _derived(base, _form(what)) if is_any else base)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that ``module`` has without normalization."""
    found: type[nn.Module] = type(module).__dict__.get("_wnconvert_plain_class", type(module))
    return found


def is_covered(module: nn.Module) -> bool:
    """Return whether somebody else has derived the class of ``module`` from one of ours, which then stays as it is."""
    return hasattr(plain_class(module), "_wnconvert_plain_class")


def restore(base: Any, form: _Form, *args: Any) -> nn.Module:
    """Return an empty module of a derived class: what the pickle of a converted module calls."""
    cls = _derived(base, form)
    result: nn.Module = cls.__new__(cls, *args)
    return result


def _form(what: Kept) -> _Form:
    return tuple(sorted(what.weights)), tuple(sorted(what.aliases)), what.network is not None


def _derived(base: type[nn.Module], form: _Form) -> type[nn.Module]:
    of_base = _classes.get(base)
    if of_base is None:
        of_base = _classes.setdefault(base, WeakValueDictionary())
    cls = of_base.get(form)
    if cls is None:
        cls = of_base.setdefault(form, _make_class(base, *form))
    return cls


def _make_class(base: Any, weights: tuple[str, ...], aliases: tuple[str, ...], is_root: bool) -> type[nn.Module]:
    members: dict[str, Any] = {name: _weight(name) for name in weights}
    members |= {name: _alias(name) for name in aliases}
    members |= {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reducer(base),
        LOAD: _loader(base),
        "_wnconvert_plain_class": base,
    }
    if weights and hasattr(base, "reset_parameters"):
        members["reset_parameters"] = resetter(base)
    if is_root:
        members["__call__"] = _caller(base)
    if issubclass(base, nn.RNNBase) and weights:
        members |= {
            # torch assigns the list when the module is moved or unpickled; there is nothing to keep
            FLAT_WEIGHTS: property(_flat_weights, lambda self, value: None),
            INIT_FLAT_WEIGHTS: lambda self: None,
            WEIGHTS_HAVE_CHANGED: lambda self: False,
            "flatten_parameters": lambda self: None,
            "check_input": _input_checker(base),
            "__setstate__": _state_setter(base),
        }
    return type(base.__name__, (base,), members)


def _weight(name: str) -> property:
    def get(module: nn.Module) -> Tensor:
        return normalized.weight_of(module, name, module.training)

    def assign(module: nn.Module, value: Tensor) -> None:
        normalized.assign(module, name, value)

    return property(get, assign)


def _alias(name: str) -> property:
    def get(module: nn.Module) -> Any:
        found = module.__dict__[normalized.KEPT].aliases.get(name)
        return module.__dict__[name] if found is None else found.value()

    def assign(module: nn.Module, value: Any) -> None:
        found = module.__dict__[normalized.KEPT]
        rest = {other: alias for other, alias in found.aliases.items() if other != name}
        normalized.keep(module, replace(found, aliases=rest))
        module.__dict__[name] = value

    return property(get, assign)


def _flat_weights(module: nn.RNNBase) -> list[Tensor | None]:
    """Return the list of weights that a recurrent module passes to its kernel, composed anew in each forward."""
    return [getattr(module, name, None) for name in flat_weight_names(module)]


def _input_checker(base: Any) -> Callable[..., None]:
    def check_input(self: Any, *args: Any) -> None:
        base.check_input(_Unread(self), *args)

    return check_input


class _Unread:
    """A recurrent module whose weights are not composed: torch asks for a dtype, and the forward composes them soon."""

    def __init__(self, module: nn.RNNBase) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name != FLAT_WEIGHTS:
            return getattr(self._module, name)
        composed = normalized.normalizations(self._module)
        return [
            normalized.tensor_of(self._module, composed[each].lead if each in composed else each)
            for each in flat_weight_names(self._module)[:1]
        ]


def _state_setter(base: Any) -> Callable[[Any, dict[str, Any]], None]:
    def __setstate__(self: Any, state: dict[str, Any]) -> None:  # noqa: N807
        # it reads the weights, which would update the state of a scheme in training
        base.__setstate__(self, {**state, "training": False})
        self.__dict__["training"] = state["training"]

    return __setstate__


def _caller(base: Any) -> Callable[..., Any]:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        network = self.__dict__[normalized.KEPT].network
        before = network.enter()
        try:
            return base.__call__(self, *args, **kwargs)
        finally:
            network.leave(before)

    return __call__


def _loader(base: Any) -> Callable[..., None]:
    def load(
        self: Any, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        normalized.load(self, state_dict, prefix, metadata.get("assign_to_params_buffers", False))
        load_as(base, self, state_dict, prefix, metadata, *args, **kwargs)

    return load


def _reducer(base: Any) -> Callable[[Any, int], Any]:
    def __reduce_ex__(self: Any, protocol: int) -> Any:  # noqa: N807
        function, args, *rest = base.__reduce_ex__(self, max(protocol, 2))
        if is_covered(self) or function is not copyreg.__newobj__:  # type: ignore[attr-defined]
            raise WnconvertError(
                f"a {type(self).__name__} with composed weights has its own way of pickling, which does not know them; "
                "save its state_dict(), or fold it first"
            )
        return restore, (base, _form(kept(self) or Kept()), *args[1:]), *rest

    return __reduce_ex__
