"""Rows of an embedding that get no gradient, so that training leaves them alone: its padding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from wnconvert.graph.calls import named_argument
from wnconvert.graph.entries import Entry
from wnconvert.torch_private import ATEN_EMBEDDING_BAG, ATEN_EMBEDDING_BAG_FORWARD_ONLY
from wnconvert.weights.sites import Weight

aten = torch.ops.aten


def padding_of_sites(weight: Weight) -> frozenset[int]:
    """Return the rows of a weight that every op which it enters takes for padding."""
    rows = len(weight.tensor)
    return _common(
        _of_module(site.module) if site.module is not None else _of_call(site.node, rows) for site in weight.sites
    )


def padding_of_owners(owners: Iterable[Entry]) -> frozenset[int]:
    """Return the rows of a weight that every module which holds it takes for padding."""
    return _common(_of_module(owner.module) if owner.name == "weight" else None for owner in owners)


def _common(rows: Iterable[int | None]) -> frozenset[int]:
    found = set(rows)
    return frozenset(row for row in found if row is not None and len(found) == 1)


def _of_module(module: nn.Module) -> int | None:
    return module.padding_idx if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) else None


def _of_call(node: Node, rows: int) -> int | None:
    target: Any = node.target
    padding = named_argument(node, "padding_idx")
    if not isinstance(padding, int) or (padding < 0 and target in _WITHOUT_IF_NEGATIVE):
        return None
    return padding % rows


#: for which a negative number is not a row counted from the end, but none
_WITHOUT_IF_NEGATIVE = frozenset(
    (
        torch.embedding,
        aten.embedding.default,
        ATEN_EMBEDDING_BAG,
        ATEN_EMBEDDING_BAG_FORWARD_ONLY,
    )
)
