"""A model with each kind of weight that is shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Weight norm of both of torch's kinds, a weight that the forward computes, a batch norm, a plain matrix."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 5, padding=2))
        self.up = nn.utils.weight_norm(nn.ConvTranspose1d(6, 5, 4, 2, 1))
        self.bn = nn.BatchNorm1d(5)
        self.lin = nn.Linear(5, 3, bias=False)
        self.scale = nn.Parameter(torch.rand(3))
        self.last = nn.Parameter(torch.randn(3, 3))
        self.to(dtype)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.lin(self.bn(self.up(self.conv(x))).relu().transpose(1, 2))
        return {"y": y, "z": nn.functional.linear(y, self.last * self.scale[:, None])}


class Noisy(Net):
    """The same, with noise."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x + torch.randn_like(x))


class Branching(nn.Module):
    """A weight that is normalized where `wnconvert.fold` of a program does not look: in a branch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.outer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.cond(x.sum() > 0, lambda x: self.inner(x), lambda x: x - 1, (x,)))
