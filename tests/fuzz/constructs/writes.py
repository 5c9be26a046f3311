"""Writes in place: to views, aliases, inputs, and through ``out=``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs.registry import WIDTH, WithLinear, construct

ALIAS = "write through an alias"
INPUT = "input written"


@construct(ALIAS)
class AugmentedAlias(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        y = h
        y += 1
        return h + y


@construct(ALIAS)
class AugmentedResidual(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        shortcut = h
        h += x
        return h + shortcut


@construct(ALIAS)
class ViewWritten(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        h[:, : WIDTH // 2].mul_(2)
        return h


@construct(ALIAS)
class ChunksWritten(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        left, right = h[:, : WIDTH // 2], h[:, WIDTH // 2 :]
        left += 1
        right.tanh_()
        return h


@construct(ALIAS)
class TransposeWritten(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        h.t().add_(1.0)
        return h


@construct(ALIAS)
class ItemAssigned(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x).clone()
        h[:, 0] = 0
        return h


@construct(ALIAS)
class ItemAugmented(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x).clone()
        h[:, 1] += 2
        return h


@construct(ALIAS)
class ViewReadLater(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        view = h.view(-1)
        h.add_(1)
        return h + view.view(h.shape)


@construct(ALIAS)
class ReluInPlace(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        y = self.act(h)
        return h + y


@construct(ALIAS)
class FunctionalInPlace(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.fc(x), inplace=True) * 1.0
        return F.dropout(h, 0.5, self.training, inplace=True)


@construct(ALIAS)
class OutArgument(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        with torch.no_grad():
            total = torch.empty_like(x)
            torch.add(x, 1.0, out=total)
        return h + total


@construct(ALIAS)
class WrittenThroughData(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        h.data.mul_(2)
        return h


@construct(ALIAS)
class DetachedAliasWritten(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        h.detach().add_(1)
        return h


@construct(ALIAS)
class MaskFilled(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h.masked_fill_(x > 0, 0.5).clamp_(-1, 1)


@construct(ALIAS)
class ScatterInPlace(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        out = torch.zeros_like(h)
        return out.scatter_add_(1, h.detach().argsort(1), h)


@construct(ALIAS)
class WrittenInALoop(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x) * 1.0
        for i in range(3):
            h[i] += i
        return h


@construct(ALIAS)
class WeightWrittenWhileComputed(WithLinear):
    """The copy of a weight is written to, not the weight."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc.weight.clone()
        weight *= 0.5
        return F.linear(x, weight, self.fc.bias)


@construct(INPUT)
class InputAugmented(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.fc(x)


@construct(INPUT)
class InputMethodInPlace(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x * 1.0)
        x.detach().mul_(0.5)
        return h


@construct(INPUT)
class InputReturned(WithLinear):
    """The very object goes back."""

    def forward(self, x: Tensor) -> Tensor:
        self.fc(x)
        return x


@construct(INPUT)
class ReluOnInput(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu_(x + 0.0)) + x
