"""A small network for 8x8 digits, with one of each kind of weighted op that vision models use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DigitsNet(nn.Module):
    """A tiny U-shape: down by a strided convolution, up by a transposed one, then a linear classifier."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.BatchNorm2d(2 * width)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.pointwise = nn.Conv2d(2 * width, 2 * width, 1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.hidden = nn.Linear(2 * width * 16, 64)
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, ``(n, classes)``, of images ``(n, 1, 8, 8)``."""
        fine = self.stem_norm(self.stem(images)).relu()
        coarse = self.down_norm(self.down(fine)).relu()
        coarse = coarse + self.pointwise(self.depthwise(coarse)).relu()
        both = torch.cat([fine, self.up(coarse).relu()], dim=1)
        pooled = nn.functional.max_pool2d(both, 2)
        return self.head(self.hidden(pooled.flatten(1)).relu())


def build() -> nn.Module:
    """Return the untrained network: the factory for ``--model model:build``."""
    return DigitsNet()
