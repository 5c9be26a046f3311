"""Small models with the architecture of real ones, which torch.fx can trace, with inputs for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions with batch norm, shortcuts and a linear head: a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, groups=2, padding_mode="reflect")
        self.bn2 = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 1, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.stem(x)))
        x = x + F.relu(self.bn2(self.conv1(x)))
        return self.head(self.down(x).mean((2, 3)))


class Transformer(nn.Module):
    """Token and position embeddings, attention of one projection, a gated MLP, and a tied output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Parameter(torch.randn(6, 8) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.gate, self.down = nn.Linear(8, 16), nn.Linear(8, 16, bias=False), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(x)


class Vocoder(nn.Module):
    """Dilated and transposed 1-d convolutions, the home of weight norm in audio."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv1d(4, 8, 7, padding=3)
        self.up = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=d, padding=d) for d in (1, 3))
        self.post = nn.Conv1d(4, 1, 7, padding=3, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.leaky_relu(self.pre(x)))
        for block in self.blocks:
            x = x + block(F.leaky_relu(x))
        return torch.tanh(self.post(x))


class Functional(nn.Module):
    """Parameters of its own that enter functions, methods and operators, and a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.randn(6, 4) * 0.5)
        self.w_out = nn.Parameter(torch.randn(6, 4) * 0.5)
        self.shared = nn.Linear(6, 6)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("offset", torch.tensor(0.25), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, weight=self.w_in)
        x = self.shared(torch.tanh(self.shared(x))) * self.scale + self.offset
        return x @ self.w_out


class Network(nn.Module):
    """One weight of each kind: an embedding, a convolution, a transposed one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 8, 4, stride=2)
        self.head = nn.Linear(8, 7)

    def forward(self, index: Tensor) -> Tensor:
        hidden = self.up(self.conv(self.embed(index).transpose(1, 2)).relu())
        return self.head(hidden.transpose(1, 2))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


#: name -> (model, inputs)
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "conv": (ConvNet, lambda: (torch.randn(4, 3, 8, 8, generator=_generator()),)),
    "transformer": (Transformer, lambda: (torch.randint(11, (2, 6), generator=_generator()),)),
    "vocoder": (Vocoder, lambda: (torch.randn(2, 4, 12, generator=_generator()),)),
    "functional": (Functional, lambda: (torch.randn(3, 4, generator=_generator()),)),
}

#: the dotted names of each model's weights, in the order of their use
WEIGHTS = {
    "conv": ("stem.weight", "conv1.weight", "down.weight", "head.weight"),
    "transformer": (*("tokens.weight", "qkv.weight", "out.weight", "gate.weight", "up.weight", "down.weight"),),
    "vocoder": ("pre.weight", "up.weight", "blocks.0.weight", "blocks.1.weight", "post.weight"),
    "functional": ("w_in", "shared.weight", "w_out"),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a model of `MODELS` in evaluation mode with reproducible weights, and its inputs."""
    model, inputs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = model().eval().to(dtype)
    return built, tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs())
