"""torch, imported when it is first used.

Its import takes ten times as long as everything else that `inspect`, `schemes` and completion do, which only ask how
things are called. So what they ask takes torch from here: schemes and layouts, and what these are made of. A scheme or
layout of another distribution may import it as usual, and is then what takes that time.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from wnconvert import torch_private

__all__ = ["Tensor", "torch", "torch_private"]


class _Lazy(ModuleType):
    """A module by its name, as if it had been imported; torch.compile takes it for what it is, too."""

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        # from now on it is a plain module with the same contents: each forward looks into it
        self.__dict__.update(vars(module))
        self.__class__ = ModuleType  # type: ignore[assignment]
        return getattr(module, name)


if not TYPE_CHECKING:
    torch = _Lazy("torch")
    torch_private = _Lazy("wnconvert.torch_private")
    Tensor = Any  # for annotations, which nothing evaluates; `isinstance` takes `torch.Tensor`
