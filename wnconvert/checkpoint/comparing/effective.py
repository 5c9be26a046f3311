"""The weights that a checkpoint makes a model compute with: plain ones as they are, parts composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.deferred import real
from wnconvert.checkpoint.content.keys import is_matrix
from wnconvert.checkpoint.content.names import is_weight_name, unwrapped
from wnconvert.checkpoint.content.optimizers import find_optimizers
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import LAYOUTS, Group
from wnconvert.checkpoint.weights.composing import Composition
from wnconvert.checkpoint.weights.reading import Reading, Request, compose_in
from wnconvert.reasons import Reason
from wnconvert.rows import magnitude_among
from wnconvert.scheme import SCHEMES


@dataclass(frozen=True)
class Effective:
    """One tensor that a model computes with.

    Attributes:
        path: the keys that lead to its state dict.
        name: its dotted name there, without wrappers.
        spelled: how the file holds it: ``"plain"``, or the name of a layout.
        tensor: it; computed when it is needed where it is composed.
        scheme: the scheme that composes it, several joined by ``+``; None where it is stored as it is.
        kept: its kept dims, where it has some and they are known.
        magnitude: what scales its direction, as it is stored.
        reason: why the weight that it is a part of cannot be composed.
        read: whether a graph shows that it is a weight, whatever it is called.
    """

    path: tuple[Any, ...]
    name: str
    spelled: str
    tensor: Tensor
    scheme: str | None = None
    kept: tuple[int, ...] | None = None
    magnitude: Tensor | None = None
    reason: Reason | None = None
    read: bool = False

    @property
    def fqn(self) -> str:
        """Its dotted name, with the path of its state dict."""
        return ".".join([*map(str, self.path), self.name])

    @property
    def is_weight(self) -> bool:
        """Whether it is what a scheme composes, or could split; or a part of what cannot be composed."""
        named = self.read or self.scheme is not None or self.reason is not None or is_weight_name(self.name)
        return named and is_matrix(self.tensor)

    def value(self) -> Tensor:
        """Return it, composed anew where it is composed."""
        return real(self.tensor).detach()


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

    def add(key: str, name: str, spelled: str, tensor: Tensor, **more: Any) -> None:
        entries[key] = Effective(found.path, unwrapped(name), spelled, tensor, **more)

    held: set[str] = set()
    for each, weight in compose_in(found, request, {}):
        if isinstance(each, Composition) and not isinstance(weight, Reason):
            held.update(each.keys)  # what it has in common with other weights among them
        for group in each.groups:
            held.update(group.keys.values())
            if isinstance(each, Composition) and not isinstance(weight, Reason):
                by, g = each.by, _magnitude(each, group, found)
                key = next(iter(group.keys.values()))
                add(key, group.stem, group.layout or "plain", weight, scheme=by.name, kept=by.kept, magnitude=g)
                continue
            assert isinstance(weight, Reason)
            # it cannot be composed, but its parts can be compared, under names that both of torch's interfaces share
            for part, key in group.keys.items():
                name, spelled = (f"{group.stem}_{part}", group.layout) if group.scheme else (key, "plain")
                add(key, name, spelled, found.tensors[key], reason=weight)
    for name, tensor in found.tensors.items():
        if name not in held:
            add(name, name, "plain", tensor)
    ordered = [entries[key] for key in found.tensors if key in entries]
    return sorted(ordered, key=lambda entry: entry.spelled == "plain")


def _magnitude(composition: Composition, group: Group, found: StateDict) -> Tensor | None:
    """Return the magnitude of a weight as it is stored, if it has one; of norms on top of each other, the first's."""
    by = composition.by
    first = by.name.partition("+")[0]
    scheme = by.scheme or (SCHEMES.get(first)() if first in SCHEMES else None)
    part = magnitude_among(group.keys, scheme) if scheme else LAYOUTS.get(group.layout).magnitude
    key = group.keys.get(part) if part else None
    return found.tensors[key].detach() if key else None


def ordered_bits(tensor: Tensor) -> Tensor:
    """Return integers in the order of the floating numbers, one apart where the numbers are neighbours."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.contiguous().view(kind).to(torch.int64)
    least = torch.iinfo(kind).min
    return torch.where(bits < 0, least - bits, bits)
