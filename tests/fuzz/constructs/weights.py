"""Ways in which a weight enters an op that are no layer: raw, or computed inside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs.registry import WIDTH, WithLinear, construct

RAW = "raw parameter"
COMPUTED = "weight computed inside"


def raw_weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*(shape or (WIDTH, WIDTH))) * 0.3)


class _Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = raw_weight(), nn.Parameter(torch.randn(WIDTH))


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
        self.experts = raw_weight(2, WIDTH, WIDTH)

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
        self.a, self.b = raw_weight(), raw_weight()

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.multi_dot([x.to(self.a.dtype), self.a, self.b])


@construct(RAW)
class RawConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = raw_weight(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x.view(x.shape[0], 2, -1), self.kernel, padding=1).flatten(1)


@construct(RAW)
class ParametersInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([raw_weight(), raw_weight()])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.linear(x, weight).tanh()
        return x


@construct(RAW)
class ParametersInADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({"up": raw_weight(), "down": raw_weight()})

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
        self.q, self.k = raw_weight(WIDTH // 2, WIDTH), raw_weight(WIDTH // 2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.cat([self.q, self.k]))


@construct(COMPUTED)
class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = raw_weight(), raw_weight(2, WIDTH), raw_weight(WIDTH, 2)
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
        self.row = raw_weight(1, WIDTH)

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
        self.direction, self.length = raw_weight(), nn.Parameter(torch.rand(WIDTH, 1) + 0.5)

    @property
    def weight(self) -> Tensor:
        return self.length * F.normalize(self.direction, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)
