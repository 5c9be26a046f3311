"""What is in a checkpoint, without changing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from wnconvert.checkpoint import manifest
from wnconvert.checkpoint.content.keys import plain_weights
from wnconvert.checkpoint.content.tree import StateDict, find_state_dicts, storage_key
from wnconvert.checkpoint.format import Checkpoint
from wnconvert.checkpoint.inspecting.normalized import NormalizedWeights, normalized_weights
from wnconvert.checkpoint.inspecting.summary import StateDictSummary
from wnconvert.fitness import is_finite
from wnconvert.selection import DTYPES


@torch.no_grad()
def inspect(checkpoint: Checkpoint) -> list[StateDictSummary]:
    """Return a summary of every state dict in a checkpoint, or of the one of a pickled module."""
    recorded, folded = manifest.read(checkpoint.metadata), manifest.read_folded(checkpoint.metadata)
    return [replace(_summary(found, recorded), folded=_folded(found, folded)) for found in _state_dicts(checkpoint)]


def count_layouts(checkpoint: Checkpoint) -> dict[str, int]:
    """Return how many weights of a checkpoint are in each layout, see `StateDictSummary.layouts`."""
    recorded = manifest.read(checkpoint.metadata)
    return dict(sum((Counter(_seen(found, recorded).layouts) for found in _state_dicts(checkpoint)), Counter()))


def _state_dicts(checkpoint: Checkpoint) -> list[StateDict]:
    content = checkpoint.content
    return find_state_dicts(dict(content.state_dict()) if isinstance(content, nn.Module) else content)


def _seen(found: StateDict, recorded: manifest.Manifest) -> NormalizedWeights:
    prefix = found.fqn("")
    kept = {fqn.removeprefix(prefix): entry.kept for fqn, entry in recorded.items() if fqn.startswith(prefix)}
    return normalized_weights({key: tuple(tensor.shape) for key, tensor in found.tensors.items()}, kept)


def _summary(found: StateDict, recorded: manifest.Manifest) -> StateDictSummary:
    tensors, seen = found.tensors, _seen(found, recorded)
    plain = [op.fqn for op in plain_weights({key: t for key, t in tensors.items() if key not in seen.taken})]
    looked_at = {key: tensors[key] for key in [*plain, *seen.telling]}
    weights = {key: t.detach() for key, t in looked_at.items() if t.dtype in DTYPES and not t.is_meta}
    return StateDictSummary(
        path=".".join(map(str, found.path)),
        tensors=len(tensors),
        others=len(found.entries) - len(tensors),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        bytes=_bytes(tensors.values()),
        schemes=seen.schemes,
        unknown=seen.unknown,
        plain=tuple(plain),
        zero={key: count for key, weight in weights.items() if (count := _zero(weight))},
        non_finite={key: count for key, weight in weights.items() if (count := _non_finite(weight))},
        recorded=seen.recorded,
        layouts=seen.layouts,
        kept=seen.kept,
        saved=_bytes(tensors[key] for key in seen.spared),
        adapter=seen.adapter,
    )


def _folded(found: StateDict, folded: manifest.Records) -> dict[str, int]:
    names = (found.fqn(name) for name in found.tensors)
    return dict(Counter(folded[name].scheme for name in names if name in folded))


def _zero(weight: Tensor) -> int:
    return 0 if bool(weight.all()) else _channels(weight == 0, every=True)  # nearly no weight has any zero


def _non_finite(weight: Tensor) -> int:
    return 0 if is_finite(weight) else _channels(~weight.isfinite(), every=False)


def _channels(elements: Tensor, *, every: bool) -> int:
    """Return how many channels of the first dim have every element, or any, set."""
    if elements.is_meta or elements.ndim == 0 or elements.numel() == 0:
        return 0
    rows = elements.reshape(elements.shape[0], -1)
    return int((rows.all(dim=1) if every else rows.any(dim=1)).sum())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({storage_key(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())
