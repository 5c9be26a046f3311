"""Groups of keys found in the state dicts of live modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wnconvert.checkpoint.layout import Group, Layout, find_groups
from wnconvert.checkpoint.weights.composing import by_layout

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)


def composed(
    group: Group, tensors: Mapping[str, Tensor], precision: str = "runtime", layout: Layout | None = None
) -> Tensor:
    assert group.problem is None, group.problem
    parts = {part: tensors[key].detach() for part, key in group.keys.items()}
    return by_layout(group, layout).weight(parts, precision)


def only(tensors: Mapping[str, Tensor], **options: object) -> Group:
    (group,) = find_groups(tensors, **options)
    return group


@torch.no_grad()
def run_through(module: nn.Module, x: Tensor, steps: int = 4) -> dict[str, Tensor]:
    """Train-mode forwards, then a change of the weights as an optimizer makes it; the state after that."""
    module.train()
    for _ in range(steps):
        module(x)
    for parameter in module.parameters():
        parameter.mul_(1 + 1e-3 * torch.randn_like(parameter))
    module.eval()
    return dict(module.state_dict())


def image(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, channels, 7, 7).to(dtype)
