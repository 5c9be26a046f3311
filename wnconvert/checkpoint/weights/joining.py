"""Splitting many small weights at once: calls of torch cost more than what is computed of a few numbers.

A scheme that is `wnconvert.scheme.Scheme.channelwise` gives each row of the first dim the bits that it has among any
others, so that weights of one shape may be the rows of one. Parts come back as tensors with memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from wnconvert.checkpoint.content.deferred import BLOCK, TINY
from wnconvert.checkpoint.content.difference import bits_equal
from wnconvert.scheme import Scheme, WeightSpec


def is_joinable(weight: Tensor, scheme: Scheme, spec: WeightSpec) -> bool:
    """Return whether a weight can be split among others of its spec, and takes less time there."""
    plain = type(weight) is Tensor and weight.device.type == "cpu"  # else memory and kernels are others
    flat = spec.contiguous and not spec.ambiguous and not (weight.is_conj() or weight.is_neg())
    return plain and flat and 0 < weight.nbytes <= TINY and not scheme.shared and scheme.channelwise(spec)


def split_joined(weights: list[Tensor], scheme: Scheme, spec: WeightSpec) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the index and the parts of each weight that comes back from them bit for bit; the others are left out.

    Args:
        weights: tensors of that spec.
        scheme: one for which they are `is_joinable`.
        spec: the facts of one.
    """
    step = max(1, BLOCK // weights[0].nbytes)
    for start in range(0, len(weights), step):
        stacked = torch.stack(weights[start : start + step])
        whole = stacked.flatten(0, 1)
        unusable = scheme.unusable(whole, replace(spec, shape=tuple(whole.shape)))
        # one row without a usable norm changes how its weight is split, and would change that of all others here
        changed = unusable.reshape(len(stacked), spec.shape[0]).any(1)
        for chosen in (~changed, changed):
            indices = chosen.nonzero().flatten()
            if len(indices):
                split = _split(stacked[indices].flatten(0, 1), scheme, spec)
                yield from ((start + index, own) for index, own in zip(indices.tolist(), split, strict=True) if own)


def _split(rows: Tensor, scheme: Scheme, spec: WeightSpec) -> Iterator[dict[str, Tensor] | None]:
    """Yield the parts of each weight whose rows these are, or None where they do not give the very rows back."""
    together = replace(spec, shape=tuple(rows.shape))
    parts = scheme.split(rows, together)
    composed, size = scheme.compose(parts, together), spec.shape[0]
    exact = bits_equal(composed, rows)
    for start in range(0, len(rows), size):
        own = slice(start, start + size)
        back = exact or bits_equal(composed[own], rows[own])
        yield {part: parts[part][own].clone() for part in scheme.parts} if back else None
