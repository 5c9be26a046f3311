"""Names in a state dict: which of them are plain weights, and which are the parts of one.

A state dict does not say which op reads a tensor. The rule for plain weights is therefore one of names and shapes: a
floating tensor of two or more dims whose last component is ``weight``, ends in ``_weight``, or is a recurrent weight
(``weight_ih_l0``, ``weight_hh``). That takes embeddings too, for nothing in the file tells them from linear layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wnconvert.checkpoint.content.names import group_keys, is_weight_name, part_names
from wnconvert.checkpoint.content.tree import storage_key
from wnconvert.scheme import Scheme, identify
from wnconvert.selection import WeightedOp

__all__ = [
    "PartGroup",
    "group_ties",
    "is_matrix",
    "is_weight_name",
    "part_groups",
    "part_names",
    "plain_weights",
]


@dataclass(frozen=True)
class PartGroup:
    """The keys that share a stem: all parts of one weight, if a scheme has exactly these parts.

    Attributes:
        stem: dotted name of the weight that they stand for.
        keys: keys by part name, in the order of the state dict.
        scheme: the scheme that has exactly these parts, or None.
    """

    stem: str
    keys: Mapping[str, str]
    scheme: Scheme | None


def plain_weights(tensors: Mapping[str, Tensor]) -> list[WeightedOp]:
    """Return the plain weights of a state dict by the rule of this module, tied ones once."""
    return group_ties({name: value for name, value in tensors.items() if is_weight_name(name) and is_matrix(value)})


def group_ties(weights: Mapping[str, Tensor]) -> list[WeightedOp]:
    """Return one entry for each tensor: the first name is its own, the others are aliases."""
    names: dict[object, list[str]] = defaultdict(list)
    for name, value in weights.items():
        names[storage_key(value)].append(name)
    return [
        WeightedOp(first, (), tuple(weights[first].shape), weights[first].dtype, aliases=tuple(others))
        for first, *others in names.values()
    ]


def part_groups(tensors: Mapping[str, Tensor], stems: Iterable[str] | None = None) -> list[PartGroup]:
    """Return the groups of keys that look like the parts of a weight, in order.

    Args:
        tensors: the state dict.
        stems: dotted names of the weights, where a model tells them; by default, whatever `is_weight_name`.
    """
    groups = group_keys(tensors, None if stems is None else frozenset(stems))
    return [PartGroup(stem, keys, identify(frozenset(keys))) for stem, keys in groups.items()]


def is_matrix(value: Tensor) -> bool:
    """Return whether a tensor has the kind and rank of a weight."""
    return value.is_floating_point() and value.layout is torch.strided and value.ndim >= 2
