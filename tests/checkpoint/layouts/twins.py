"""Small twins of the modules whose checkpoints people have: the same keys, the same functions, few numbers.

Each is written after the project's own class, which its docstring names, and may be built over any of torch's two
interfaces, or over none: the projects use hooks, migration must fit the other, and folding the plain module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: how a normalization is put on a module: hook, parametrization, or not at all.
APIS = ("hook", "parametrization", "plain")


class Api:
    """The two normalizations of one of torch's interfaces."""

    def __init__(self, name: str) -> None:
        assert name in APIS
        found = {"hook": nn.utils, "parametrization": nn.utils.parametrizations, "plain": None}[name]
        self.weight_norm: Callable[..., Any] = found.weight_norm if found else lambda module, *_, **__: module
        self.spectral_norm: Callable[..., Any] = found.spectral_norm if found else lambda module, *_, **__: module


class HifiGan(nn.Module):
    """jik876/hifi-gan, models.py, Generator: convolutions and transposed ones, all with dim 0."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        wn = api.weight_norm
        self.conv_pre = wn(nn.Conv1d(8, 12, 7, padding=3))
        self.ups = nn.ModuleList([wn(nn.ConvTranspose1d(12, 6, 4, 2, padding=1))])
        block = nn.Module()
        block.convs1 = nn.ModuleList([wn(nn.Conv1d(6, 6, 3, padding=1)), wn(nn.Conv1d(6, 6, 3, padding=1))])
        block.convs2 = nn.ModuleList([wn(nn.Conv1d(6, 6, 3, padding=1)), wn(nn.Conv1d(6, 6, 3, padding=1))])
        self.resblocks = nn.ModuleList([block])
        self.conv_post = wn(nn.Conv1d(6, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.ups[0](F.leaky_relu(self.conv_pre(x), 0.1))
        for one, two in zip(self.resblocks[0].convs1, self.resblocks[0].convs2, strict=True):
            x = x + two(F.leaky_relu(one(F.leaky_relu(x, 0.1)), 0.1))
        return torch.tanh(self.conv_post(x))


class BigVgan(nn.Module):
    """NVIDIA/BigVGAN, bigvgan.py: upsamplers nested twice, and activations with alpha and beta."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        wn = api.weight_norm
        self.conv_pre = wn(nn.Conv1d(8, 6, 7, padding=3))
        self.ups = nn.ModuleList([nn.ModuleList([wn(nn.ConvTranspose1d(6, 4, 4, 2, padding=1))])])
        self.activation_post = nn.Module()
        self.activation_post.alpha = nn.Parameter(torch.zeros(4))
        self.activation_post.beta = nn.Parameter(torch.zeros(4))
        self.conv_post = wn(nn.Conv1d(4, 1, 7, padding=3, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.ups[0][0](self.conv_pre(x))
        alpha, beta = (part.exp().unsqueeze(-1) for part in (self.activation_post.alpha, self.activation_post.beta))
        return self.conv_post(x + (x * alpha).sin().square() / (beta + 1e-9))


class Discriminators(nn.Module):
    """jik876/hifi-gan, models.py, MultiScaleDiscriminator: the first has spectral norm, the second weight norm."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(_scale(norm) for norm in (api.spectral_norm, api.weight_norm))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for each in self.discriminators:
            y = x
            for conv in each.convs:
                y = F.leaky_relu(conv(y), 0.1)
            outputs.append(each.conv_post(y).flatten(1))
        return torch.cat(outputs, 1)


def _scale(norm: Callable[..., Any]) -> nn.Module:
    scale = nn.Module()
    scale.convs = nn.ModuleList([norm(nn.Conv1d(1, 8, 5, padding=2)), norm(nn.Conv1d(8, 8, 5, groups=4, padding=2))])
    scale.conv_post = norm(nn.Conv1d(8, 1, 3, padding=1))
    return scale


class PeriodDiscriminators(nn.Module):
    """jik876/hifi-gan, models.py, MultiPeriodDiscriminator: the names of the one above, over images of the signal."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(nn.Module() for _ in range(2))
        for each in self.discriminators:
            shapes = ((1, 8, (5, 1)), (8, 8, (5, 1)))
            each.convs = nn.ModuleList(api.weight_norm(nn.Conv2d(*shape, padding=(2, 0))) for shape in shapes)
            each.conv_post = api.weight_norm(nn.Conv2d(8, 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for period, each in zip((2, 3), self.discriminators, strict=True):
            y = x.unflatten(-1, (-1, period))
            for conv in each.convs:
                y = F.leaky_relu(conv(y), 0.1)
            outputs.append(each.conv_post(y).flatten(1))
        return torch.cat(outputs, 1)


class Wn(nn.Module):
    """NVIDIA/waveglow, glow.py, and VITS modules.py: WN, whose name is a trap for who looks for weight norms."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        wn = api.weight_norm
        self.start = wn(nn.Conv1d(4, 6, 1))
        self.in_layers = nn.ModuleList([wn(nn.Conv1d(6, 12, 3, padding=1)), wn(nn.Conv1d(6, 12, 3, padding=1))])
        self.cond_layer = wn(nn.Conv1d(4, 24, 1), name="weight")
        self.res_skip_layers = nn.ModuleList([wn(nn.Conv1d(6, 6, 1)), wn(nn.Conv1d(6, 6, 1))])

    def forward(self, x: Tensor) -> Tensor:
        conditions = self.cond_layer(x).chunk(2, 1)
        x = self.start(x)
        for layer, skip, condition in zip(self.in_layers, self.res_skip_layers, conditions, strict=True):
            one, two = (layer(x) + condition).chunk(2, 1)
            x = x + skip(one.tanh() * two.sigmoid())
        return x


class WaveGlow(nn.Module):
    """NVIDIA/waveglow, glow.py: flows whose networks are called WN."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.WN = nn.ModuleList([Wn(api), Wn(api)])

    def forward(self, x: Tensor) -> Tensor:
        return self.WN[0](x) + self.WN[1](x)


class Vits(nn.Module):
    """jaywalnut310/vits, models.py: decoder, posterior encoder and flows; RVC and so-vits-svc have the same keys."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.dec = HifiGan(api)
        self.enc_q = nn.Module()
        self.enc_q.enc = Wn(api)
        self.flow = nn.Module()
        self.flow.flows = nn.ModuleList([nn.Module()])
        self.flow.flows[0].enc = Wn(api)

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(torch.cat([self.enc_q.enc(x[:, :4])[:, :4], self.flow.flows[0].enc(x[:, 4:])[:, :4]], 1))


class Encodec(nn.Module):
    """facebookresearch/encodec, modules/conv.py: every convolution wrapped twice."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.model = nn.ModuleList([_wrapped("conv", api.weight_norm(nn.Conv1d(8, 4, 7, padding=3)))])
        self.decoder = nn.Module()
        up = api.weight_norm(nn.ConvTranspose1d(4, 8, 4, 2))
        self.decoder.model = nn.ModuleList([_wrapped("convtr", up)])

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder.model[0].convtr.convtr(self.encoder.model[0].conv.conv(x))


def _wrapped(name: str, module: nn.Module) -> nn.Module:
    outer, inner = nn.Module(), nn.Module()
    inner.add_module(name, module)
    outer.add_module(name, inner)
    return outer


class Dac(nn.Module):
    """descriptinc/descript-audio-codec, dac/model/dac.py and nn/layers.py: WNConv1d in Sequentials, Snake alphas."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        wn = api.weight_norm
        unit = nn.Module()
        unit.block = nn.Sequential(wn(nn.Conv1d(4, 4, 7, padding=3)), nn.ELU(), wn(nn.Conv1d(4, 4, 1)))
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList([wn(nn.Conv1d(8, 4, 7, padding=3)), unit])
        self.encoder.alpha = nn.Parameter(torch.ones(1, 4, 1))
        self.quantizer = nn.Module()
        quantizer = nn.Module()
        quantizer.in_proj, quantizer.out_proj = wn(nn.Conv1d(4, 2, 1)), wn(nn.Conv1d(2, 4, 1))
        quantizer.codebook = nn.Embedding(5, 2)
        self.quantizer.quantizers = nn.ModuleList([quantizer])

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder.block[0](x)
        x = self.encoder.block[1].block(x) * self.encoder.alpha
        only = self.quantizer.quantizers[0]
        return only.out_proj(only.in_proj(x))


class Vocos(nn.Module):
    """gemelo-ai/vocos, models.py, VocosResNetBackbone: weight norm beside a head without."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        wn = api.weight_norm
        self.backbone = nn.Module()
        self.backbone.embed = wn(nn.Conv1d(8, 4, 3, padding=1))
        block = nn.Module()
        block.convs1 = nn.ModuleList([wn(nn.Conv1d(4, 4, 3, padding=1))])
        block.gamma = nn.ParameterList([nn.Parameter(torch.ones(4, 1))])
        self.backbone.resnet = nn.ModuleList([block])
        self.head = nn.Module()
        self.head.out = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone.embed(x)
        block = self.backbone.resnet[0]
        return self.head.out((x + block.gamma[0] * block.convs1[0](x)).mT)


class PositionalConvolution(nn.Module):
    """fairseq, models/wav2vec/wav2vec2.py, make_conv_pos: dim 2, so that g is (1, 1, kernel)."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.encoder = nn.Module()
        conv = api.weight_norm(nn.Conv1d(8, 8, 16, padding=8, groups=4), name="weight", dim=2)
        self.encoder.pos_conv = nn.Sequential(conv, nn.Identity(), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.pos_conv(x)


class DinoHead(nn.Module):
    """facebookresearch/dino, vision_transformer.py, DINOHead: a weight-normalized linear layer with g of ones."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 5))
        self.last_layer = api.weight_norm(nn.Linear(5, 9, bias=False))
        if hasattr(self.last_layer, "weight_g"):
            self.last_layer.weight_g.data.fill_(1)
            self.last_layer.weight_g.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x.mT), dim=-1, p=2))


class Projection(nn.Module):
    """The three projections of `torch.nn.MultiheadAttention`, without its fast path, which plain weights alone take."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(24, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.in_proj_weight)


class Recurrent(nn.Module):
    """Weight norms on parameters that are not called weight: of an LSTM, and of an attention."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self.rnn = nn.LSTMCell(8, 4)
        self.attention = Projection()
        for module, name in ((self.rnn, "weight_hh"), (self.rnn, "weight_ih"), (self.attention, "in_proj_weight")):
            api.weight_norm(module, name=name)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.rnn(x[:, :, 0])[0], self.attention(x[:, :, 0])], 1)


class SpectralNormBar(nn.Module):
    """christiancosgrove/pytorch-spectral-normalization-gan, spectral_normalization.py: it always iterates."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        weight = module.weight
        matrix = weight.data.view(weight.shape[0], -1)
        u, v = torch.randn(matrix.shape[0]), torch.randn(matrix.shape[1])
        del module._parameters["weight"]
        module.register_parameter("weight_u", nn.Parameter(_l2(u), requires_grad=False))
        module.register_parameter("weight_v", nn.Parameter(_l2(v), requires_grad=False))
        module.register_parameter("weight_bar", nn.Parameter(weight.data))

    def forward(self, x: Tensor) -> Tensor:
        u, v, w = self.module.weight_u, self.module.weight_v, self.module.weight_bar
        height = w.data.shape[0]
        v.data = _l2(torch.mv(torch.t(w.view(height, -1).data), u.data))
        u.data = _l2(torch.mv(w.view(height, -1).data, v.data))
        sigma = u.dot(w.view(height, -1).mv(v))
        self.module.weight = w / sigma.expand_as(w)
        return self.module(x)


def _l2(x: Tensor) -> Tensor:
    return x / (x.norm() + 1e-12)


class BigGanConv(nn.Conv2d):
    """ajbrock/BigGAN-PyTorch, layers.py, SNConv2d: a plain weight, and sigma anew in every forward."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.register_buffer("u0", torch.randn(1, self.out_channels))
        self.register_buffer("sv0", torch.ones(1))

    def normalized(self) -> Tensor:
        w = self.weight.view(self.weight.size(0), -1)
        with torch.no_grad():
            v = F.normalize(torch.matmul(self.u0, w), eps=1e-12)
            u = F.normalize(torch.matmul(v, w.t()), eps=1e-12)
            if self.training:
                self.u0[:] = u
        sigma = torch.squeeze(torch.matmul(torch.matmul(v, w.t()), u.t()))
        if self.training:
            with torch.no_grad():
                self.sv0[:] = sigma
        return self.weight / sigma

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized(), self.bias)


class ConvWs(nn.Conv2d):
    """mmcv, cnn/bricks/conv_ws.py, ConvWS2d."""

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.size(0)
        flat = self.weight.view(channels, -1)
        mean = flat.mean(dim=1, keepdim=True).view(channels, 1, 1, 1)
        std = flat.std(dim=1, keepdim=True).view(channels, 1, 1, 1)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias)


class ConvAws(nn.Conv2d):
    """mmcv, cnn/bricks/conv_ws.py, ConvAWS2d, without its loading."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.register_buffer("weight_gamma", torch.rand(self.out_channels, 1, 1, 1) + 0.5)
        self.register_buffer("weight_beta", torch.randn(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        mean = flat.mean(dim=1).view(-1, 1, 1, 1)
        std = torch.sqrt(flat.var(dim=1) + 1e-5).view(-1, 1, 1, 1)
        return F.conv2d(x, self.weight_gamma * ((self.weight - mean) / std) + self.weight_beta, self.bias)


class BitConv(nn.Conv2d):
    """google-research/big_transfer, bit_pytorch/models.py, StdConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        v, m = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - m) / torch.sqrt(v + 1e-10), self.bias)


def signal(channels: int = 8, length: int = 24, dtype: torch.dtype = torch.float32) -> Tensor:
    """An input for the twins of audio models."""
    return torch.randn(2, channels, length, generator=torch.Generator().manual_seed(7)).to(dtype)
