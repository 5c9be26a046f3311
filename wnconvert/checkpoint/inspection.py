"""What is in a checkpoint, without changing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.keys import DTYPES, part_groups, plain_weights
from wnconvert.checkpoint.tree import StateDict, find_state_dicts, storage_key


@dataclass(frozen=True)
class StateDictSummary:
    """One state dict of a checkpoint.

    Attributes:
        path: the keys that lead to it, dotted; empty for the root.
        tensors: how many entries are tensors.
        others: how many are not.
        dtypes: how many tensors have each dtype.
        bytes: size of all tensors, tied ones counted once.
        schemes: how many weights are under each scheme.
        unknown: names whose parts belong to no scheme.
        plain: names of the plain weights that `wnconvert.checkpoint.apply` would take.
        zero: channels of zeros (first dim) in weights, magnitudes and directions, by key.
        non_finite: channels with a NaN or an infinity in them, by key.
        recorded: how many weights the file's manifest describes.
    """

    path: str
    tensors: int
    others: int
    dtypes: dict[str, int]
    bytes: int
    schemes: dict[str, int]
    unknown: tuple[str, ...]
    plain: tuple[str, ...]
    zero: dict[str, int]
    non_finite: dict[str, int]
    recorded: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain data, ready for JSON."""
        return asdict(self)


@torch.no_grad()
def inspect(checkpoint: Checkpoint) -> list[StateDictSummary]:
    """Return a summary of every state dict in a checkpoint, or of the one of a pickled module."""
    content = checkpoint.content
    content = dict(content.state_dict()) if isinstance(content, nn.Module) else content
    recorded = manifest.read(checkpoint.metadata)
    return [_summary(found, recorded) for found in find_state_dicts(content)]


def _summary(found: StateDict, recorded: manifest.Manifest) -> StateDictSummary:
    tensors = found.tensors
    groups = part_groups(tensors)
    schemes = [group.scheme for group in groups if group.scheme is not None]
    parts = {key for group in groups if group.scheme for key in group.keys.values()}
    plain = [op.fqn for op in plain_weights({key: t for key, t in tensors.items() if key not in parts})]
    telling = [
        group.keys[part]
        for group in groups
        if group.scheme
        for part in (group.scheme.magnitude, group.scheme.direction)
        if part is not None and part in group.keys
    ]
    weights = {key: tensors[key].detach() for key in [*plain, *telling] if tensors[key].dtype in DTYPES}
    return StateDictSummary(
        path=".".join(map(str, found.path)),
        tensors=len(tensors),
        others=len(found.entries) - len(tensors),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        bytes=_bytes(tensors.values()),
        schemes=dict(Counter(scheme.name for scheme in schemes)),
        unknown=tuple(group.stem for group in groups if group.scheme is None),
        plain=tuple(plain),
        zero={key: count for key, weight in weights.items() if (count := _channels(weight == 0, every=True))},
        non_finite={key: n for key, weight in weights.items() if (n := _channels(~weight.isfinite(), every=False))},
        recorded=sum(found.fqn(group.stem) in recorded for group in groups),
    )


def _channels(elements: Tensor, *, every: bool) -> int:
    """Return how many channels of the first dim have every element, or any, set."""
    if elements.is_meta or elements.ndim == 0 or elements.numel() == 0:
        return 0
    rows = elements.reshape(elements.shape[0], -1)
    return int((rows.all(dim=1) if every else rows.any(dim=1)).sum())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({storage_key(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())
