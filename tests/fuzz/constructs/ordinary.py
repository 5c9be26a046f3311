"""Layers as most models have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.constructs.registry import ORDINARY, WIDTH, WithLinear, construct


@construct(ORDINARY)
class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.down(F.gelu(self.up(x))))


@construct(ORDINARY)
class GatedMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


@construct(ORDINARY)
class NormalizedLinear(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.norm(x))


@construct(ORDINARY)
class BatchNormalized(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x)).relu()


@construct(ORDINARY)
class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm1d(4)
        self.group = nn.Conv1d(4, 4, 1, groups=2)
        self.back = nn.ConvTranspose1d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x.view(x.shape[0], 2, -1))).relu()
        return self.back(self.group(h)).flatten(1)


@construct(ORDINARY)
class Convolutions2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding="same")
        self.norm = nn.GroupNorm(2, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        image = x.view(x.shape[0], 2, 2, 2)
        return self.out(F.relu(self.norm(self.conv(image)))).flatten(1)


@construct(ORDINARY)
class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v))


@construct(ORDINARY)
class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[None], x[None], x[None])[0][0]


@construct(ORDINARY)
class TorchEncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, dim_feedforward=WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[None])[0]


@construct(ORDINARY)
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH // 2, WIDTH // 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.view(x.shape[0], 2, -1))[0].flatten(1)


@construct(ORDINARY)
class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH // 2, WIDTH // 4, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x.view(x.shape[0], 2, -1))
        return out.flatten(1)


@construct(ORDINARY)
class RecurrentCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x, self.cell(x))


@construct(ORDINARY)
class PaddedEmbedding(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, WIDTH, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.tokens((x.detach().sigmoid() * 9).long()).sum(1))


@construct(ORDINARY)
class EmbeddingBag(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.bag((x.detach().sigmoid() * 9).long())


@construct(ORDINARY)
class BilinearLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x.tanh())


@construct(ORDINARY)
class Functions(WithLinear):
    """Python arithmetic, slices, stacks and comparisons."""

    def forward(self, x: Tensor) -> Tensor:
        h = 1.0 - self.fc(x) / 2
        h = torch.where(x > 0, h, -h) ** 2
        h = torch.stack([h[..., ::2], h[..., 1::2]], -1).flatten(-2)
        return h.clamp(max=3.0).to(x.dtype)


@construct(ORDINARY)
class Buffers(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(WIDTH))
        self.register_buffer("std", torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x - self.mean) / self.std)


@construct(ORDINARY)
class Named(nn.Module):
    """Modules in a dict, chosen by name."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        return sum(head(x) for head in self.heads.values())  # type: ignore[return-value]


@construct(ORDINARY)
class DoublePrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.double()).to(x.dtype)
