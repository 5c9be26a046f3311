"""A weighted op: a custom op of PyTorch, into which no trace can look, and which of its arguments is the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from wnconvert import WeightedOpRule


@torch.library.custom_op("wnconvert_example::gated_linear", mutates_args=())
def gated_linear(input: Tensor, weight: Tensor) -> Tensor:
    """Return a linear map of the gated input."""
    return (torch.sigmoid(input) * input) @ weight.T


@gated_linear.register_fake
def _(input: Tensor, weight: Tensor) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


class GatedLinear(WeightedOpRule):
    """The weight is the second argument, and its first dim indexes the output channels."""

    name = "gated_linear"
    targets = (torch.ops.wnconvert_example.gated_linear,)
    weight = (1, "weight")
    output_dims = (0,)
