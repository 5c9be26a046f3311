"""Edits of the modules around a fuse: what takes the place of a normalization, and what is dropped with it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wnconvert.fusing.affines import rest_of
from wnconvert.graph.entries import locate
from wnconvert.torch_private import buffers_of, children_of, parameters_of


def rest_as_module(module: nn.Module) -> nn.Module:
    """Return what a batch norm calls once it has normalized, as a module of its own."""
    rest = [getattr(module, name) for name in rest_of(module)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever that is registered."""
    for parent in list(root.modules()):
        for name, child in children_of(parent).items():
            if child is old:
                children_of(parent)[name] = new.train(old.training)


def drop_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Drop a module that nothing calls, or its tensors where what is below it is still called."""
    if rest_of(module):
        for kind in (parameters_of(module), buffers_of(module)):
            kind.clear()
        return
    parent, _, name = path.rpartition(".")
    children_of(locate(root, parent) if parent else root).pop(name, None)


def forget(owner: nn.Module, *names: str) -> None:
    """Drop tensors of a module, whether it has them or not."""
    for name in names:
        for kind in (parameters_of(owner), buffers_of(owner)):
            kind.pop(name, None)


def put(owner: Any, name: str, value: Tensor, like: Tensor) -> None:
    """Give a module a tensor of the kind that ``like`` is: a parameter, frozen or not, or a buffer."""
    vars(owner).pop(name, None)  # a plain attribute, as of a layer without bias, would hide it
    if isinstance(like, nn.Parameter):
        parameters_of(owner)[name] = nn.Parameter(value, like.requires_grad)
    else:
        buffers_of(owner)[name] = value
