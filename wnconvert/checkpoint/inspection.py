"""What is in a checkpoint, without changing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.keys import DTYPES, part_groups, plain_weights
from wnconvert.checkpoint.overview import StateDictSummary
from wnconvert.checkpoint.spellings import count_layouts, spelled
from wnconvert.checkpoint.tree import StateDict, find_state_dicts, storage_key


@torch.no_grad()
def inspect(checkpoint: Checkpoint) -> list[StateDictSummary]:
    """Return a summary of every state dict in a checkpoint, or of the one of a pickled module."""
    content = checkpoint.content
    content = dict(content.state_dict()) if isinstance(content, nn.Module) else content
    recorded = manifest.read(checkpoint.metadata)
    return [_summary(found, recorded) for found in find_state_dicts(content)]


def _summary(found: StateDict, recorded: manifest.Manifest) -> StateDictSummary:
    tensors = found.tensors
    foreign = spelled({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    claimed = {key for each in foreign for key in each.keys}
    groups = [group for group in part_groups(tensors) if claimed.isdisjoint(group.keys.values())]
    schemes = [group.scheme.name for group in groups if group.scheme is not None]
    schemes += [each.scheme for each in foreign if each.scheme]
    parts = claimed | {key for group in groups if group.scheme for key in group.keys.values()}
    plain = [op.fqn for op in plain_weights({key: t for key, t in tensors.items() if key not in parts})]
    telling = [
        group.keys[part]
        for group in groups
        if group.scheme
        for part in (group.scheme.magnitude, group.scheme.direction)
        if part is not None and part in group.keys
    ]
    telling += [each.keys[0] for each in foreign]
    kept = {group.keys[group.scheme.direction] for group in groups if group.scheme}
    spared = (
        parts - kept - {each.keys[0] for each in foreign} - {key for e in foreign if not e.scheme for key in e.keys}
    )
    weights = {key: tensors[key].detach() for key in [*plain, *telling] if tensors[key].dtype in DTYPES}
    return StateDictSummary(
        path=".".join(map(str, found.path)),
        tensors=len(tensors),
        others=len(found.entries) - len(tensors),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        bytes=_bytes(tensors.values()),
        schemes=dict(Counter(schemes)),
        unknown=tuple(
            [group.stem for group in groups if group.scheme is None] + [e.stem for e in foreign if e.scheme is None]
        ),
        plain=tuple(plain),
        zero={key: count for key, weight in weights.items() if (count := _channels(weight == 0, every=True))},
        non_finite={key: n for key, weight in weights.items() if (n := _channels(~weight.isfinite(), every=False))},
        recorded=sum(found.fqn(stem) in recorded for stem in [*(g.stem for g in groups), *(e.stem for e in foreign)]),
        layouts=count_layouts((group.keys for group in groups), foreign),
        saved=_bytes(tensors[key] for key in spared),
    )


def _channels(elements: Tensor, *, every: bool) -> int:
    """Return how many channels of the first dim have every element, or any, set."""
    if elements.is_meta or elements.ndim == 0 or elements.numel() == 0:
        return 0
    rows = elements.reshape(elements.shape[0], -1)
    return int((rows.all(dim=1) if every else rows.any(dim=1)).sum())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({storage_key(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())
