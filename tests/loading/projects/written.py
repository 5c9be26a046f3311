"""Models of projects that are in no package, written after their sources: names, order and kinds of the modules.

HiFi-GAN: https://github.com/jik876/hifi-gan. RVC: https://github.com/RVC-Project/Retrieval-based-Voice-Conversion-WebUI,
whose small files have half precision and no ``enc_q``. DINO: https://github.com/facebookresearch/dino.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm, weight_norm


class ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        convs = [weight_norm(nn.Conv1d(channels, channels, 3, 1, dilation=d, padding=d)) for d in (1, 3, 1, 1)]
        self.convs1, self.convs2 = nn.ModuleList(convs[:2]), nn.ModuleList(convs[2:])

    def forward(self, x: Tensor) -> Tensor:
        for one, two in zip(self.convs1, self.convs2, strict=True):
            x = x + two(nn.functional.leaky_relu(one(nn.functional.leaky_relu(x, 0.1)), 0.1))
        return x

    def remove_weight_norm(self) -> None:
        for conv in (*self.convs1, *self.convs2):
            remove_weight_norm(conv)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_pre = weight_norm(nn.Conv1d(10, 16, 7, 1, padding=3))
        self.ups = nn.ModuleList([weight_norm(nn.ConvTranspose1d(16, 8, 8, 4, padding=2))])
        self.resblocks = nn.ModuleList([ResBlock(8)])
        self.conv_post = weight_norm(nn.Conv1d(8, 1, 7, 1, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for up, block in zip(self.ups, self.resblocks, strict=True):
            x = block(up(nn.functional.leaky_relu(x, 0.1)))
        return torch.tanh(self.conv_post(nn.functional.leaky_relu(x)))

    def remove_weight_norm(self) -> None:
        for each in (*self.ups, self.conv_pre, self.conv_post):
            remove_weight_norm(each)
        for block in self.resblocks:
            block.remove_weight_norm()


class WN(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.in_layers = nn.ModuleList([weight_norm(nn.Conv1d(hidden, 2 * hidden, 3, padding=1))])
        self.res_skip_layers = nn.ModuleList([weight_norm(nn.Conv1d(hidden, hidden, 1))])

    def forward(self, x: Tensor) -> Tensor:
        for one, two in zip(self.in_layers, self.res_skip_layers, strict=True):
            a, b = one(x).chunk(2, 1)
            x = x + two(torch.tanh(a) * torch.sigmoid(b))
        return x


class Synthesizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flow = nn.ModuleDict({"flows": nn.ModuleList([nn.ModuleDict({"enc": WN(10)})])})
        self.dec = Generator()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dec(self.flow["flows"][0]["enc"](x))  # type: ignore[index]
        return result


class DINOHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 8))
        self.last_layer = weight_norm(nn.Linear(8, 20, bias=False))
        self.last_layer.weight_g.data.fill_(1)
        self.last_layer.weight_g.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last_layer(nn.functional.normalize(self.mlp(x), dim=-1, p=2))
        return result


def hifigan() -> tuple[nn.Module, Any]:
    """A generator of HiFi-GAN, and a spectrogram."""
    return Generator(), ((torch.randn(1, 10, 6),), {})


def rvc() -> tuple[nn.Module, Any]:
    """What RVC runs, and its input; like its application, it computes in the precision of its files."""
    return Synthesizer().half(), ((torch.randn(1, 10, 6).half(),), {})


def rvc_file(entries: dict[str, Tensor]) -> dict[str, Any]:
    """Return what RVC saves for its users."""
    return {"weight": entries, "config": [10, 16], "info": "20epoch", "sr": "40k", "f0": 1, "version": "v2"}


def dino() -> tuple[nn.Module, Any]:
    """The head of DINO, and features."""
    return DINOHead(), ((torch.randn(2, 12),), {})


def wrapped(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries under the names that DistributedDataParallel gives them."""
    return {f"module.{key}": value for key, value in entries.items()}
