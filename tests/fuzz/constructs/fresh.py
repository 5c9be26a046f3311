"""Tensors that a forward makes itself: written to afterwards, or random."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs.registry import BATCH, ORDINARY, WIDTH, WithLinear, construct

WRITTEN = "fresh tensor written to"
DRAWN = "random draw"


@construct(WRITTEN)
class ZerosAccumulated(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        acc = torch.zeros(BATCH, WIDTH)
        acc += x
        acc += self.fc(x)
        return x + acc


@construct(WRITTEN)
class RowsWritten(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(BATCH, WIDTH)
        for i in range(BATCH):
            out[i] = self.fc(x[i])
        return out


@construct(WRITTEN)
class EmptyFilled(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty(BATCH, WIDTH)
        out.copy_(self.fc(x))
        return out


@construct(WRITTEN)
class OnesScaledInPlace(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones(WIDTH)
        scale.mul_(1.5)
        return self.fc(x) * scale


@construct(WRITTEN)
class CounterTensor(WithLinear):
    """Nothing but constants is written, so that a trace shows no write at all."""

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.zeros(())
        for _ in range(3):
            steps += 1
        return self.fc(x) / steps


@construct(WRITTEN)
class FullFilledByIndex(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((WIDTH,), 0.5)
        mask[::2] = 2.0
        return self.fc(x * mask)


@construct(WRITTEN)
class NewZerosWritten(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        acc = x.new_zeros(BATCH, WIDTH)
        acc += self.fc(x)
        return acc.add_(x)


@construct(WRITTEN)
class ZerosLikeRows(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for i, row in enumerate(x.unbind(0)):
            out[i] = self.fc(row)
        return out


@construct(WRITTEN)
class WrittenThroughOut(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        scale = torch.empty(WIDTH)
        torch.add(torch.arange(float(WIDTH)), 1.0, out=scale)
        return self.fc(x) / scale


@construct(WRITTEN)
class FreshReturned(WithLinear):
    """The caller, and whatever follows, may write to what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        offset = torch.zeros(BATCH, WIDTH)
        h = self.fc(x)
        offset.add_(1.0)
        return offset.mul_(0.5) + h


@construct(WRITTEN, plain=False)
class ConstantReturned(WithLinear):
    """The caller may write to it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), torch.linspace(0, 1, WIDTH)


@construct(DRAWN)
class NormalNoise(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + torch.randn(BATCH, WIDTH))


@construct(DRAWN)
class NoiseInTraining(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.1 * torch.randn(WIDTH)
        return self.fc(x)


@construct(DRAWN)
class ScalarDraw(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * torch.rand(()).item()


@construct(DRAWN)
class PythonDraw(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * random.random()


@construct(DRAWN)
class PythonDrawByName(WithLinear):
    """A function bound under another name when the module was imported."""

    draw = staticmethod(random.uniform)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.draw(0.5, 1.5)


@construct(DRAWN)
class PythonBranch(WithLinear):
    """Stochastic depth as many write it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and random.random() < 0.5:
            return x
        return x + self.fc(x)


@construct(DRAWN)
class PythonShuffle(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        order = list(range(WIDTH))
        random.shuffle(order)
        return self.fc(x[:, order])


@construct(DRAWN)
class NumpyDraw(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * float(np.random.rand())


@construct(DRAWN)
class NumpyBeta(WithLinear):
    """Mixup."""

    def forward(self, x: Tensor) -> Tensor:
        share = np.random.beta(0.5, 0.5)
        return self.fc(share * x + (1 - share) * x.flip(0))


@construct(DRAWN)
class OwnNumpyGenerator(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + float(self.generator.normal())


@construct(DRAWN)
class OwnPythonGenerator(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.generator.random()


@construct(DRAWN)
class OwnTorchGenerator(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self.generator.manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.randn(BATCH, WIDTH, generator=self.generator)


@construct(DRAWN)
class NoiseLike(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.randn_like(x)


@construct(DRAWN)
class Permuted(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[torch.randperm(BATCH)])


@construct(DRAWN)
class BernoulliMask(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * torch.bernoulli(torch.full((WIDTH,), 0.5))


@construct(DRAWN)
class EmptyNormal(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.empty(WIDTH).normal_(0.0, 0.1)


@construct(DRAWN)
class DrawInHelper(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return _jittered(self.fc(x), 0.1)


def _jittered(x: Tensor, width: float) -> Tensor:
    return x * torch.empty(x.shape).uniform_(1.0 - width, 1.0 + width)


@construct(DRAWN)
class DistributionSample(WithLinear):
    """A variational bottleneck."""

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.fc(x), x
        scale = F.softplus(raw)
        return mean + scale * torch.distributions.Normal(0.0, 1.0).sample((BATCH, WIDTH))


@construct(DRAWN)
class SeedsItself(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(11)
        return self.fc(x) + torch.randn(WIDTH)


@construct(DRAWN)
class ForksTheGenerator(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            noise = torch.randn(WIDTH)
        return self.fc(x) + noise


@construct(DRAWN)
class RandomWeights(nn.Module):
    """A random projection, drawn anew in each forward, before a learned one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, torch.randn(WIDTH, WIDTH) * 0.3), self.weight)


@construct(DRAWN)
class NoisyWeight(WithLinear):
    """Noise on the weight itself, such as NoisyNet's."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc.weight
        if self.training:
            weight = weight + 0.1 * torch.randn_like(weight)
        return F.linear(x, weight, self.fc.bias)


@construct(ORDINARY)
class Positions(WithLinear):
    """Fresh tensors that nothing writes to are constants of a graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + torch.arange(WIDTH) / WIDTH + torch.ones(()))


@construct(ORDINARY)
class TensorFromNumbers(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * torch.tensor([0.5, 1.0] * (WIDTH // 2))
