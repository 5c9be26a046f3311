"""What all containers have in common that hold tensors by name and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import DeferredTensor
from wnconvert.errors import OutputError
from wnconvert.fitness import overlapping


def named_tensors(content: Any, title: str, why_not: Callable[[str, Tensor], str | None]) -> dict[str, Tensor]:
    """Return the content of a checkpoint as tensors by name.

    Args:
        content: the content.
        title: what the container is called.
        why_not: returns why the container cannot hold a tensor, or None.

    Raises:
        OutputError: the container cannot hold something in it.
    """
    if not isinstance(content, dict):
        raise _cannot(title, f"it is a {type(content).__name__}, not a dict of tensors")
    for key, value in content.items():
        if not isinstance(key, str):
            raise _cannot(title, f"the key {key!r:.100} is no text")
        if not isinstance(value, Tensor):
            what = "a nested dict" if isinstance(value, dict) else f"a {type(value).__name__}"
            way_out = "; choose one state dict (--only)" if isinstance(value, dict) else ""
            raise _cannot(title, f"{key!r:.100} is {what}, not a tensor{way_out}")
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise _cannot(title, f"{key!r:.100} is sparse, quantized or without data")
        if value.is_conj() or value.is_neg():
            raise _cannot(
                title, f"{key!r:.100} is a view that conjugates or negates; save tensor.resolve_conj() instead"
            )
        if reason := why_not(key, value):
            raise _cannot(title, f"{key!r:.100} {reason}")
    if shared := _sharing(content):
        raise _cannot(title, f"{shared[0]!r:.100} and {shared[1]!r:.100} share memory")
    return dict(content)


def _cannot(title: str, reason: str) -> OutputError:
    return OutputError(f"{title} cannot hold this content: {reason}")


def _sharing(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the names of two tensors that share memory, if there are any."""
    recipes: dict[Any, str] = {}
    in_memory = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, DeferredTensor):
            in_memory.append((name, tensor))
        elif (first := recipes.setdefault(tensor.recipe, name)) != name:
            return first, name
    return next(((first, second) for (first, _), (second, _) in overlapping(in_memory)), None)
