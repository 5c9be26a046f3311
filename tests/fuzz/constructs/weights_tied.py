"""Weights that several places hold, that came normalized, or that are odd in another way and yet ordinary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.fuzz.constructs.registry import ORDINARY, WIDTH, WithLinear, construct
from tests.fuzz.constructs.weights import raw_weight

TIED = "tied or aliased weight"
NORMALIZED = "came normalized"


@construct(TIED)
class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, 10, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens((x.detach().sigmoid() * 9).long()).mean(1) + x
        return h + self.head(h)[:, :WIDTH]


@construct(TIED)
class TiedAutoencoder(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(x).relu(), self.fc.weight.t())


@construct(TIED)
class TiedLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@construct(TIED)
class CalledTwice(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x).tanh())


@construct(TIED)
class SharedModule(WithLinear):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.fc
        self.blocks = nn.ModuleList([self.fc, nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.again(x)


@construct(TIED)
class AliasInAList(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.alias = [self.fc.weight]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(x), self.alias[0])


@construct(TIED)
class AliasInADict(WithLinear):
    """Read, but not as a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.regularized = {"fc": self.fc.weight}

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.regularized["fc"].mean()


@construct(TIED)
class AliasUnread(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.decay = [self.fc.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(TIED)
class ModulesInAPlainList(nn.Module):
    """Not registered, but called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.order = [self.body[1], self.body[0]]

    def forward(self, x: Tensor) -> Tensor:
        for module in self.order:
            x = module(x)
        return x


@construct(TIED)
class SharedMemory(nn.Module):
    """Two parameters that are views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(2 * WIDTH, WIDTH) * 0.3
        self.a, self.b = nn.Parameter(flat[: WIDTH + 1]), nn.Parameter(flat[WIDTH - 1 :])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.a)[:, :WIDTH] + F.linear(x, self.b)[:, :WIDTH]


@construct(NORMALIZED)
def TorchWeightNorm() -> nn.Module:  # noqa: N802 - named like the classes
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)), nn.Linear(WIDTH, WIDTH))


@construct(NORMALIZED)
def TorchSpectralNorm() -> nn.Module:  # noqa: N802
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)), nn.Linear(WIDTH, WIDTH))


class _Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@construct(NORMALIZED)
def OtherParametrization() -> nn.Module:  # noqa: N802
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    parametrize.register_parametrization(model[0], "weight", _Symmetric())
    return model


class _Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * torch.randn_like(weight)


@construct(NORMALIZED)
def RandomParametrization() -> nn.Module:  # noqa: N802
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    parametrize.register_parametrization(model[0], "weight", _Noisy())
    return model


@construct(ORDINARY)
class FrozenWeight(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.fc.weight.requires_grad_(False)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


@construct(ORDINARY)
class ZeroRows(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.fc.weight[::2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(ORDINARY)
class UnusedWeight(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.raw = nn.Linear(WIDTH, WIDTH), raw_weight()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@construct(ORDINARY)
class ChannelsLastConvolutions(nn.Module):
    """Layouts that only the strides tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.point = nn.Conv2d(4, 2, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        image = x.view(x.shape[0], 2, 2, 2).to(memory_format=torch.channels_last)
        return self.point(self.depthwise(self.conv(image))).reshape(x.shape)


@construct(ORDINARY)
class TransposedMemory(WithLinear):
    """A weight that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.fc.weight = nn.Parameter(torch.randn(WIDTH, WIDTH).t() * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)
