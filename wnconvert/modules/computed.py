"""Which weights of a module are computed whenever they are needed, and by what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

from wnconvert.graph.entries import Entry, join
from wnconvert.modules.hooks import kind_of
from wnconvert.modules.normalized import normalizations
from wnconvert.torch_private import children_of, forward_pre_hooks_of

HOOK, PARAMETRIZATION, IN_PLACE = "hook", "parametrization", "in place"


@dataclass(frozen=True)
class Computed:
    """A computed weight.

    Attributes:
        path: dotted name of the module.
        module: the module.
        name: name of the weight.
        by: what computes it: one of `HOOK`, `PARAMETRIZATION` (torch's two APIs) and `IN_PLACE` (this package).
        parts: names of the module's own parameters that it is computed from.
    """

    path: str
    module: nn.Module
    name: str
    by: str
    parts: tuple[str, ...] = ()

    @property
    def fqn(self) -> str:
        """Dotted name of the weight."""
        return join(self.path, self.name)


def computed_weights(path: str, module: nn.Module) -> Iterator[Computed]:
    """Yield the computed weights of one module."""
    if not _may_compute(module):
        return
    for hook in forward_pre_hooks_of(module).values():
        kind = kind_of(hook)
        if kind is not None:
            yield Computed(path, module, hook.name, HOOK, tuple(f"{hook.name}_{part}" for part in kind.parts))
    if parametrize.is_parametrized(module):
        for name in module.parametrizations:  # type: ignore[union-attr]
            yield Computed(path, module, str(name), PARAMETRIZATION)
    for name, how in normalizations(module).items():
        yield Computed(path, module, name, IN_PLACE, tuple(how.keys.values()))


def computed_below(model: nn.Module, paths: set[str] | None = None) -> Iterator[Computed]:
    """Yield the computed weights of a model, or of those of its modules that are below ``paths``."""
    for path, module in model.named_modules():
        if paths is None or is_below(path, paths):
            yield from computed_weights(path, module)


def is_below(path: str, paths: set[str]) -> bool:
    """Return whether a dotted name is one of ``paths``, or that of a module inside one."""
    while path not in paths:
        if not path:
            return False
        path = path.rpartition(".")[0]
    return True


def is_part(entry: Entry) -> bool:
    """Return whether a parameter is a part of a computed weight, or belongs to what computes one."""
    if "parametrizations" in entry.path and "parametrizations" in entry.path.split("."):
        return True
    return _may_compute(entry.module) and any(
        entry.name in computed.parts for computed in computed_weights(entry.path, entry.module)
    )


def _may_compute(module: nn.Module) -> bool:
    """Return False for a module that has no computed weights, as most have none; quickly."""
    return bool(forward_pre_hooks_of(module) or "parametrizations" in children_of(module) or normalizations(module))
