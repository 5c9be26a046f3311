"""A small twin of WaveGlow, for files with classes that cannot be imported when they are read.

The modules, their names and their order are those of glow.py in https://github.com/NVIDIA/waveglow, in few and narrow
layers. Training there saves whole modules, in files like ``waveglow_256channels_universal_v5.pt``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import weight_norm


class Invertible1x1Conv(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c, c, kernel_size=1, stride=1, padding=0, bias=False)
        self.conv.weight.data = torch.linalg.qr(torch.randn(c, c))[0].view(c, c, 1)


class WN(nn.Module):
    def __init__(self, n_in_channels: int, n_mel_channels: int, n_layers: int, n_channels: int) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.in_layers = nn.ModuleList()
        self.res_skip_layers = nn.ModuleList()
        self.start = weight_norm(nn.Conv1d(n_in_channels, n_channels, 1), name="weight")
        self.end = nn.Conv1d(n_channels, 2 * n_in_channels, 1)
        self.end.weight.data.zero_()
        self.end.bias.data.zero_()
        cond_layer = nn.Conv1d(n_mel_channels, 2 * n_channels * n_layers, 1)
        self.cond_layer = weight_norm(cond_layer, name="weight")
        for i in range(n_layers):
            in_layer = nn.Conv1d(n_channels, 2 * n_channels, 3, dilation=2**i, padding=2**i)
            self.in_layers.append(weight_norm(in_layer, name="weight"))
            res_skip_channels = 2 * n_channels if i < n_layers - 1 else n_channels
            res_skip_layer = nn.Conv1d(n_channels, res_skip_channels, 1)
            self.res_skip_layers.append(weight_norm(res_skip_layer, name="weight"))


class WaveGlow(nn.Module):
    def __init__(self, n_mel_channels: int, n_flows: int, n_channels: int, n_group: int = 4, n_layers: int = 2) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose1d(n_mel_channels, n_mel_channels, 16, stride=4)
        self.n_flows = n_flows
        self.WN = nn.ModuleList()
        self.convinv = nn.ModuleList()
        for _ in range(n_flows):
            self.convinv.append(Invertible1x1Conv(n_group))
            self.WN.append(WN(n_group // 2, n_mel_channels * n_group, n_layers, n_channels))
