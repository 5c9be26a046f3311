"""A device that stands in for a GPU: its tensors mix with no others, and its reductions round in their own way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from wnconvert.device import Device

aten = torch.ops.aten
_REDUCING = {
    aten.linalg_vector_norm.default,
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.var.correction,
    aten.dot.default,
    aten.vdot.default,
    aten.mv.default,
}


class There(Tensor):
    """A tensor of the stand-in."""

    held: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("matmul", "__matmul__", "__rmatmul__"):
            # its parts give a tensor another shape in place, which a wrapper does not follow
            assert all(isinstance(each, There) for each in args)
            return There.of(func(*(each.held for each in args)))
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @staticmethod
    def of(held: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            There, held.shape, strides=held.stride(), dtype=held.dtype, device=held.device
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in pytree.tree_leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        if not all(isinstance(each, There) or not each.ndim for each in given):
            raise RuntimeError("expected all tensors to be on the same device")
        if (made := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:  # then it is made of others
            return made
        args, kwargs = pytree.tree_map_only(There, lambda each: each.held, (args, kwargs or {}))
        return pytree.tree_map_only(Tensor, There.of, _computed(func, args, kwargs))


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    if func is aten._weight_norm_interface.default:
        v, g, *_ = args
        norm = _other_bits(func(*args, **kwargs)[1])
        return v * (g / norm), norm
    made = func(*args, **kwargs)
    return _other_bits(made) if func in _REDUCING else made


def _other_bits(tensor: Tensor) -> Tensor:
    return torch.nextafter(tensor, torch.full_like(tensor, torch.inf)) if tensor.is_floating_point() else tensor


class _Factories(TorchFunctionMode):
    """What is made of nothing is on the stand-in if it was told to be."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return There.of(made) if func is torch.arange and (kwargs or {}).get("device") is not None else made


class _Rounding(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class Rounding(Device):
    """A device for whole models: what it runs rounds in its own way, wherever the tensors are."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), "stand-in:1")

    def run(self, compute: Any, *given: Any) -> Any:
        with _Rounding():
            return super().run(compute, *given)


class StandIn(Device):
    """The device; it counts what comes to it."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), "stand-in:0 (made up)")

    def run(self, compute: Any, *given: Any) -> Any:
        with _Factories():
            return super().run(compute, *given)

    def there(self, tensor: Tensor) -> Tensor:
        return There.of(tensor.detach().clone())

    def back(self, tensor: Tensor) -> Tensor:
        assert isinstance(tensor, There), "it was computed elsewhere"
        return tensor.held
