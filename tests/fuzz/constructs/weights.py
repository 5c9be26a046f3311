"""Ways in which a weight enters an op: raw, tied, shared, computed, through aliases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.fuzz.constructs.registry import ORDINARY, WIDTH, WithLinear, construct

RAW = "raw parameter"
COMPUTED = "weight computed inside"
TIED = "tied or aliased weight"
NORMALIZED = "came normalized"


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*(shape or (WIDTH, WIDTH))) * 0.3)


class _Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = _weight(), nn.Parameter(torch.randn(WIDTH))


@construct(RAW)
class RawMatmul(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@construct(RAW)
class RawEinsum(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight) + self.bias


@construct(RAW)
class RawLinear(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@construct(RAW)
class RawAddmm(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.t())


@construct(RAW)
class RawBatchedMatmul(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = _weight(2, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.experts).sum(0)


@construct(RAW)
class RawTensordot(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensordot(x, self.weight, dims=([1], [0])) + self.bias


@construct(RAW)
class RawInner(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return torch.inner(x.to(self.weight.dtype), self.weight)


@construct(RAW)
class RawMultiDot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = _weight(), _weight()

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.multi_dot([x.to(self.a.dtype), self.a, self.b])


@construct(RAW)
class RawConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = _weight(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x.view(x.shape[0], 2, -1), self.kernel, padding=1).flatten(1)


@construct(RAW)
class ParametersInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([_weight(), _weight()])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.linear(x, weight).tanh()
        return x


@construct(RAW)
class ParametersInADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({"up": _weight(), "down": _weight()})

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights["up"] @ self.weights["down"]


@construct(RAW)
class RawBehindADecision(_Raw):
    """Untraceable, so that only a run shows what reads the weight."""

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.weight
        return h if h.sum() > 0 else h + self.bias


@construct(RAW)
class SlicedWeight(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        half = WIDTH // 2
        return torch.cat([F.linear(x, self.weight[:half]), F.linear(x, self.weight[half:])], -1)


@construct(RAW)
class ReadTwoWays(_Raw):
    """A weight of a product, and a summand besides."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + self.weight.mean(0)


@construct(COMPUTED)
class NormalizedRows(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight), self.bias)


@construct(COMPUTED)
class StandardizedWeight(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean(1, keepdim=True)
        std = self.weight.std(1, keepdim=True)
        return F.linear(x, (self.weight - mean) / (std + 1e-5), self.bias)


@construct(COMPUTED)
class EqualizedRate(_Raw):
    def __init__(self) -> None:
        super().__init__()
        self.scale = WIDTH**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


@construct(COMPUTED)
class MaskedWeight(_Raw):
    """A masked autoregressive layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(WIDTH, WIDTH).tril())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


@construct(COMPUTED)
class ConcatenatedProjections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = _weight(WIDTH // 2, WIDTH), _weight(WIDTH // 2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.cat([self.q, self.k]))


@construct(COMPUTED)
class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = _weight(), _weight(2, WIDTH), _weight(WIDTH, 2)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base + self.b @ self.a)


@construct(COMPUTED)
class HyperNetwork(WithLinear):
    """The weight comes from another network and the input."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper = nn.Linear(WIDTH, WIDTH * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(x), self.hyper(x.mean(0)).view(WIDTH, WIDTH) * 0.1)


@construct(COMPUTED)
class ExpandedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.row = _weight(1, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.row.expand(WIDTH, WIDTH))


@construct(COMPUTED)
class StandardizedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _StdConv1d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.view(x.shape[0], 2, -1)).flatten(1)


class _StdConv1d(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


@construct(COMPUTED)
class ComputedInAProperty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.direction, self.length = _weight(), nn.Parameter(torch.rand(WIDTH, 1) + 0.5)

    @property
    def weight(self) -> Tensor:
        return self.length * F.normalize(self.direction, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


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
        self.unused, self.raw = nn.Linear(WIDTH, WIDTH), _weight()

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
