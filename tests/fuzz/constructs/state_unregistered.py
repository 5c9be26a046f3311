"""State that no module lists, or not yet: plain tensors, what is made late, classes and globals."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.constructs.registry import BATCH, ORDINARY, WIDTH, WithLinear, construct

PLAIN_TENSOR = "plain tensor attribute"
LAZY = "made lazily"
SHARED = "class or global written"


@construct(PLAIN_TENSOR)
class PlainTensor(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.rand(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.mask


@construct(PLAIN_TENSOR)
class PlainTensorOfChild(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.fc.mask = torch.rand(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.fc.mask


@construct(PLAIN_TENSOR)
class PlainTensorWritten(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.detach().sum(0)
        return self.fc(x) + self.total


@construct(PLAIN_TENSOR)
class PlainTensorsInAList(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.scales = [torch.rand(WIDTH), torch.rand(WIDTH)]

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = x * scale
        return self.fc(x)


@construct(LAZY)
class LazyBuffer(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.linspace(0.5, 1.5, WIDTH)
        return self.fc(x) * self.scale


@construct(LAZY)
class LazyCache(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None or self.cache.shape[0] != x.shape[0]:
            self.cache = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
        return self.fc(x) + self.cache


@construct(LAZY)
class LazyCacheOfData(WithLinear):
    """The first input is kept for good."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.first is None:
            self.first = x.detach().clone()
        return self.fc(x - self.first)


@construct(LAZY)
class LazyAttribute(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "bias_table"):
            self.bias_table = torch.eye(WIDTH)[:BATCH]
        return self.fc(x) + self.bias_table


@construct(LAZY)
class CachedInEvaluation(WithLinear):
    """Attention biases as levit keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.randn(4))
        self.register_buffer("index", torch.arange(WIDTH) % 4, persistent=False)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            bias = self.biases[self.index]
        else:
            key = str(x.device)
            if key not in self.cache:
                self.cache[key] = self.biases[self.index].detach()
            bias = self.cache[key]
        return self.fc(x) + bias

    def train(self, mode: bool = True) -> CachedInEvaluation:
        super().train(mode)
        self.cache.clear()
        return self


@construct(LAZY)
class LazyModule(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "norm"):
            self.norm = nn.LayerNorm(x.shape[-1])
        return self.norm(self.fc(x))


@construct(SHARED)
class ClassCounter(WithLinear):
    """The class remembers that it was run, by a value that is the same after every run."""

    ran = False

    def forward(self, x: Tensor) -> Tensor:
        type(self).ran = True
        return self.fc(x)


_MASKS: dict[int, Tensor] = {}


@construct(SHARED)
class GlobalCache(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] not in _MASKS:
            _MASKS[x.shape[0]] = torch.linspace(0, 1, BATCH)[:, None]
        return self.fc(x) * _MASKS[x.shape[0]]


@construct(SHARED)
class CachedHelper(WithLinear):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + _table(WIDTH, x.device)


@lru_cache(maxsize=4)
def _table(width: int, device: torch.device) -> Tensor:
    return torch.linspace(0, 1, width, device=device)


@construct(ORDINARY)
class NonPersistentBuffer(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale
