"""A weight as a matrix with a row for each magnitude, and what is to be seen of its rows: for figures and for training.

A *row* is what has a magnitude of its own: the elements with the same index of the kept dims, in a layer one output
channel.
"""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

from wnconvert.scheme import Scheme, WeightSpec

#: a row is dead up to this share of the usual norm: nothing that it adds to is noticed by what reads it
DEAD = 1e-3


def rows_of(x: Tensor, spec: WeightSpec) -> Tensor:
    """Return ``x``, of the weight's shape, as a matrix with a row for each magnitude, in float32 at least."""
    order = (*spec.kept, *spec.dims)
    moved = x if order == tuple(range(len(order))) else torch.permute(x, order)
    return widened(torch.reshape(moved, (spec.rows, spec.fan_in)))


def units_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row at unit length, and its length; one of zeros stays so."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.clamp(length, min=torch.finfo(length.dtype).tiny), length


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in float32 at least."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def magnitude_among(parts: Container[str], scheme: Scheme) -> str | None:
    """Return which of the parts of a weight scales its direction, or None where nothing that is trained does."""
    if scheme.magnitude in parts:
        return scheme.magnitude
    others = [part for part in (*scheme.parts, *scheme.shared) if part not in {scheme.direction, *scheme.state}]
    return next((part for part in others if part in parts), None)
