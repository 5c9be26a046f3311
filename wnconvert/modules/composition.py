"""Composed weights whose gradients are computed in closed form.

A graph has the formula of a scheme, and autograd its derivative; so have compiled and transformed modules. What runs
eagerly takes one node of autograd for all of it, with the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wnconvert.scheme import Parts, Scheme, WeightSpec
from wnconvert.schemes._closed import ClosedScheme
from wnconvert.schemes._eager import computes_only
from wnconvert.torch_private import is_batched, is_transformed

#: a GPU waits for Python rather than Python for it, so there is less to be had from one node; nor was it tried there
_SUITED = {(torch.float32, "cpu"), (torch.float64, "cpu")}


def composed(scheme: Scheme, parts: Parts, spec: WeightSpec) -> Tensor:
    """Return what `Scheme.compose` gives, with the same derivatives."""
    if isinstance(scheme, ClosedScheme) and _suits(scheme, parts) and scheme.has_gradients(parts, spec):
        found: Tensor = _Composition.apply(scheme, spec, tuple(parts), *parts.values())  # type: ignore[no-untyped-call]
        return found
    return scheme.compose(parts, spec)


def _suits(scheme: ClosedScheme, parts: Parts) -> bool:
    """Return whether the parts are many plain numbers on the CPU, of one dtype in which squares stay in range."""
    # in this order: while torch.jit traces, sizes are tensors
    if not computes_only(*parts.values()) or parts[scheme.direction].numel() < scheme.worthwhile:
        return False
    kinds = {(tensor.dtype, tensor.device.type) for tensor in parts.values()}
    return len(kinds) == 1 and kinds <= _SUITED


class _Composition(torch.autograd.Function):
    """`ClosedScheme.compose`, differentiated by `ClosedScheme.gradients`."""

    @staticmethod
    def forward(ctx: Any, scheme: ClosedScheme, spec: WeightSpec, names: tuple[str, ...], *tensors: Tensor) -> Tensor:
        parts = dict(zip(names, tensors, strict=True))
        statistics = scheme.statistics(parts, spec)
        ctx.how = scheme, spec, names
        ctx.save_for_backward(*tensors, *statistics)
        return scheme.combine(parts, statistics, spec)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        scheme, spec, names = ctx.how
        tensors = ctx.saved_tensors
        parts, statistics = dict(zip(names, tensors, strict=False)), tensors[len(names) :]
        wanted = [name for name, needed in zip(names, ctx.needs_input_grad[3:], strict=True) if needed]
        followed = torch.is_grad_enabled() or is_transformed() or is_batched(gradient)
        # a norm that overflowed: the kernels divide by it, where autograd multiplies by its inverse
        if followed or not all(math.isfinite(each.sum().item()) for each in statistics):
            found = _of_the_formula(scheme, spec, parts, gradient, wanted)
        else:
            found = scheme.gradients(parts, statistics, gradient, wanted, spec)
        return None, None, None, *[found[name] if name in wanted else None for name in names]


def _of_the_formula(
    scheme: Scheme, spec: WeightSpec, parts: Parts, gradient: Tensor, wanted: list[str]
) -> dict[str, Tensor | None]:
    """Return the gradients as autograd has them, which can be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        weight = scheme.compose(parts, spec)
    found = torch.autograd.grad(weight, [parts[name] for name in wanted], gradient, create_graph=again)
    return dict(zip(wanted, found, strict=True))
