"""The networks that the benchmarks convert and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

#: the weighted modules in these networks
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)


def linear_stack(layers: int) -> nn.Module:
    """Return Linear layers so small that only the cost of a layer counts, and not that of its numbers."""
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])


def conv_stack(layers: int) -> nn.Module:
    """Return residual blocks of two convolutions of 64 channels."""
    return nn.Sequential(*[Block2d(64) for _ in range(layers // 2)])


class Block2d(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class Block1d(nn.Module):
    """The residual block of HiFi-GAN (Kong 2020, https://arxiv.org/abs/2010.05646): three pairs of convolutions."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, channels, kernel_size, dilation) for dilation in (1, 3, 5))
        self.convs2 = nn.ModuleList(_same(channels, channels, kernel_size, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


def vocoder() -> nn.Module:
    """Return a small HiFi-GAN generator: one upsampling from 256 to 128 channels, then two residual blocks."""
    return nn.Sequential(
        _same(80, 256, 7, 1),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose1d(256, 128, 4, stride=2, padding=1),
        Block1d(128, 3),
        Block1d(128, 7),
        nn.LeakyReLU(0.1),
        _same(128, 1, 7, 1),
        nn.Tanh(),
    )


def resnet() -> nn.Module:
    """Return a small ResNet: a stem, four blocks of 64 channels at full size, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        *[Block2d(64) for _ in range(4)],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@dataclass(frozen=True)
class Task:
    """A network with an input of the size that it is run on."""

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def input(self) -> Tensor:
        """Return a random input."""
        return torch.randn(self.shape)


TASKS = {
    "conv1d": Task("1-D conv net, input 2 x 80 x 128, 15 weights, most of 128 channels", vocoder, (2, 80, 128)),
    "conv2d": Task("2-D conv net, input 8 x 3 x 16 x 16, 10 weights, most of 64 channels", resnet, (8, 3, 16, 16)),
}


def register(model: nn.Module) -> nn.Module:
    """Give every layer torch's own weight norm, in place."""
    for module in list(model.modules()):
        if isinstance(module, WEIGHTED):
            parametrizations.weight_norm(module)
    return model


def _same(inputs: int, outputs: int, kernel_size: int, dilation: int) -> nn.Module:
    padding = dilation * (kernel_size - 1) // 2
    return nn.Conv1d(inputs, outputs, kernel_size, padding=padding, dilation=dilation)
