"""The weights that a checkpoint makes a model compute with: plain ones as they are, parts composed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.keys import part_groups
from wnconvert.checkpoint.content.names import unwrapped
from wnconvert.checkpoint.content.optimizers import find_optimizers
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts
from wnconvert.checkpoint.conversions.fold import fold
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.layout import Group, Reading, compose, find_groups
from wnconvert.errors import NothingToConvertError

#: parts that torch's own modules have too.
_TORCHS = ({"g", "v"}, {"orig", "u", "v"})


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
    if isinstance(content, nn.Module):
        checkpoint = replace(checkpoint, content=dict(content.state_dict()))
    content = _folded_ours(checkpoint)
    optimizers = [found.path for found in find_optimizers(content)]
    found = [each for each in find_state_dicts(content) if not any(_within(each.path, path) for path in optimizers)]
    recorded = manifest.read(checkpoint.metadata)
    return [entry for each in found for entry in _effective_in(each, reading, recorded)]


def _within(path: Sequence[Any], outer: Sequence[Any]) -> bool:
    return tuple(path[: len(outer)]) == tuple(outer)


def _folded_ours(checkpoint: Checkpoint) -> Any:
    """Return the content with everything folded whose parts only wnconvert has."""
    names: set[str] = set()
    for found in find_state_dicts(checkpoint.content):
        groups = part_groups(found.tensors)
        names |= {found.fqn(group.stem) for group in groups if group.scheme and group.keys.keys() not in _TORCHS}
    if not names:
        return checkpoint.content
    try:
        return fold(checkpoint, only=names).checkpoint.content
    except NothingToConvertError:
        return checkpoint.content


def _effective_in(found: StateDict, reading: Reading, recorded: manifest.Manifest) -> Iterator[Effective]:
    tensors = found.tensors
    presets = {preset.name: preset for preset in reading.presets}
    used: set[str] = set()
    for group in find_groups(tensors, dim=reading.dim, presets=reading.presets):
        entry = recorded.get(found.fqn(group.stem))
        if group.problem and entry is None:
            # it cannot be composed, but its parts can be compared, under names that both of torch's interfaces share
            for part, key in group.keys.items() if group.scheme else ():
                used.add(key)
                yield Effective(found.path, unwrapped(f"{group.stem}_{part}"), group.layout, _getter(tensors[key]))
            continue
        used.update(group.keys.values())

        def value(group: Group = group, entry: manifest.Entry | None = entry) -> Tensor:
            parts = {part: tensors[key].detach() for part, key in group.keys.items()}
            return compose(group, parts, reading.precision, presets.get(group.layout), entry)

        yield Effective(found.path, unwrapped(group.stem), group.layout, value)
    for name, tensor in tensors.items():
        if name not in used:
            yield Effective(found.path, unwrapped(name), "plain", _getter(tensor))


def _getter(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor.detach()


def ordered_bits(tensor: Tensor) -> Tensor:
    """Return integers in the order of the floating numbers, one apart where the numbers are neighbours."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.contiguous().view(kind).to(torch.int64)
    least = torch.iinfo(kind).min
    return torch.where(bits < 0, least - bits, bits)
