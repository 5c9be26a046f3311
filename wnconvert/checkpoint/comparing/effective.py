"""The weights that a checkpoint makes a model compute with: plain ones as they are, parts composed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.deferred import real
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.content.optimizers import find_optimizers
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.weights.composing import Composition
from wnconvert.checkpoint.weights.reading import Reading, Request, compose_in
from wnconvert.reasons import Reason


@dataclass(frozen=True)
class Effective:
    """One tensor that a model computes with.

    Attributes:
        path: the keys that lead to its state dict.
        name: its dotted name there, without wrappers.
        spelled: how the file holds it: ``"plain"``, or the name of a layout.
        value: returns it.
    """

    path: tuple[Any, ...]
    name: str
    spelled: str
    value: Callable[[], Tensor]


def effective(checkpoint: Checkpoint, reading: Reading) -> list[Effective]:
    """Return all tensors that a checkpoint makes a model compute with; those of optimizers are left out."""
    content = checkpoint.content
    content = dict(content.state_dict()) if isinstance(content, nn.Module) else content
    optimizers = [found.path for found in find_optimizers(content)]
    found = [each for each in find_state_dicts(content) if not any(_within(each.path, path) for path in optimizers)]
    request = Request(
        reading.dim, reading.presets, reading.precision, reading.device, manifest.read(checkpoint.metadata)
    )
    return [entry for each in found for entry in _effective_in(each, request)]


def _within(path: Sequence[Any], outer: Sequence[Any]) -> bool:
    return tuple(path[: len(outer)]) == tuple(outer)


def _effective_in(found: StateDict, request: Request) -> list[Effective]:
    """Return the tensors of a state dict in the order of their keys, those in a layout before all others."""
    entries: dict[str, Effective] = {}

    def add(key: str, name: str, spelled: str, tensor: Tensor) -> None:
        entries[key] = Effective(found.path, unwrapped(name), spelled, lambda: real(tensor).detach())

    held: set[str] = set()
    for each, weight in compose_in(found, request, {}):
        if isinstance(each, Composition) and not isinstance(weight, Reason):
            held.update(each.keys)  # what it has in common with other weights among them
        for group in each.groups:
            held.update(group.keys.values())
            if not isinstance(weight, Reason):
                add(next(iter(group.keys.values())), group.stem, group.layout or "plain", weight)
                continue
            # it cannot be composed, but its parts can be compared, under names that both of torch's interfaces share
            for part, key in group.keys.items():
                name, spelled = (f"{group.stem}_{part}", group.layout) if group.scheme else (key, "plain")
                add(key, name, spelled, found.tensors[key])
    for name, tensor in found.tensors.items():
        if name not in held:
            add(name, name, "plain", tensor)
    ordered = [entries[key] for key in found.tensors if key in entries]
    return sorted(ordered, key=lambda entry: entry.spelled == "plain")


def ordered_bits(tensor: Tensor) -> Tensor:
    """Return integers in the order of the floating numbers, one apart where the numbers are neighbours."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.contiguous().view(kind).to(torch.int64)
    least = torch.iinfo(kind).min
    return torch.where(bits < 0, least - bits, bits)
