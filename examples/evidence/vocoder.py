"""A small vocoder in the manner of HiFi-GAN's generator, on synthesized voices. ``python vocoder.py``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from study import Claim, Clock, Outcome, Study, is_look, main, scaled

VARIANTS = {
    "plain": "torch's own initialization",
    "weight_norm": '`wnconvert.apply(model, dim="output")`; published vocoders of this kind have weight norm',
    "weight_norm_init": "... and `wnconvert.initialize` on one batch",
}
RATE, HOP, BANDS, CHANNELS = 8000, 16, 20, 32


def voices(count: int, order: torch.Generator, samples: int = 1024) -> Tensor:
    """Return synthesized voiced sounds: a gliding pitch with harmonics, shaped by three formants, and breath."""
    time = torch.arange(samples) / RATE

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=order)

    pitch = draw(90, 250) * (1 + draw(-0.2, 0.2) * time * 8)
    phase = 2 * math.pi * torch.cumsum(pitch / RATE, 1)
    centres = torch.stack([draw(300, 900), draw(900, 2200), draw(2200, 3400)])
    wave = torch.zeros(count, samples)
    for harmonic in range(1, 30):
        frequency = harmonic * pitch
        gain = (1 / (1 + ((frequency - centres) / 150).square())).sum(0)
        wave += torch.where(frequency < RATE / 2, gain, torch.zeros(())) * (harmonic * phase).sin() / harmonic**0.5
    wave = wave / wave.abs().amax(1, keepdim=True) + 0.02 * torch.randn(count, samples, generator=order)
    return 0.8 * wave


def spectrum(wave: Tensor, size: int) -> Tensor:
    """Return magnitudes, ``(batch, frequencies, frames)``."""
    window = torch.hann_window(size)
    return torch.stft(wave, size, size // 4, window=window, return_complex=True).abs().clamp(min=1e-4)


def features(wave: Tensor) -> Tensor:
    """Return the logarithm of magnitudes in bands, ``(batch, bands, frames)``: what a vocoder is given."""
    magnitudes = torch.stft(wave, 128, HOP, window=torch.hann_window(128), return_complex=True).abs()[..., :-1]
    return F.adaptive_avg_pool1d(magnitudes.transpose(1, 2), BANDS).transpose(1, 2).clamp(min=1e-4).log()


class Residual(nn.Module):
    """Two dilated convolutions beside a shortcut, as in HiFi-GAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=d, dilation=d) for d in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        for layer in self.layers:
            x = x + layer(F.leaky_relu(x, 0.1))
        return x


def generator() -> nn.Sequential:
    """Return the network: bands in, a wave of sixteen times the length out."""
    half = CHANNELS // 2
    return nn.Sequential(
        nn.Conv1d(BANDS, CHANNELS, 7, padding=3),
        nn.LeakyReLU(0.1), nn.ConvTranspose1d(CHANNELS, CHANNELS, 8, 4, padding=2), Residual(CHANNELS),
        nn.LeakyReLU(0.1), nn.ConvTranspose1d(CHANNELS, half, 8, 4, padding=2), Residual(half),
        nn.LeakyReLU(0.1), nn.Conv1d(half, 1, 7, padding=3), nn.Tanh(),
    )  # fmt: skip


def loss_of(made: Tensor, real: Tensor) -> Tensor:
    """Return the mean over three resolutions of the spectral convergence and the distance of log magnitudes."""
    total = torch.zeros(())
    for size in (64, 128, 256):
        ours, theirs = spectrum(made, size), spectrum(real, size)
        total = total + (theirs - ours).norm() / theirs.norm() + (theirs.log() - ours.log()).abs().mean()
    return total / 3


def train(variant: str, rate: float, seed: int, steps: int, scale: float = 1.0) -> Outcome:
    """Train one generator by Adam on the spectral loss, without an adversary."""
    order = torch.Generator().manual_seed(seed)
    model: nn.Module = scaled(generator(), scale)
    if variant != "plain":
        # torch's dim=0 is the input of a transposed convolution, and has no `g` for what initialization measures
        model = wnconvert.apply(model, dim="output").model
    if variant == "weight_norm_init":
        wnconvert.initialize(model, [features(voices(16, torch.Generator().manual_seed(seed)))])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.8, 0.99))
    held_out = voices(32, torch.Generator().manual_seed(10**6))
    given = features(held_out)
    clock, curve = Clock(), []
    for step in range(1, steps + 1):
        real = voices(4, order)
        with clock:
            optimizer.zero_grad()
            loss_of(model(features(real)).squeeze(1), real).backward()
            optimizer.step()
        if is_look(step, steps):
            with torch.no_grad():
                curve.append((step, -loss_of(model(given).squeeze(1), held_out).item()))
    return Outcome(model, (given,), curve, clock.seconds, steps)


#: a variant, and the one that it is compared with
NORM = ("weight_norm", "plain")
INIT = ("weight_norm_init", "plain")

STUDY = Study(
    name="vocoder",
    title="Vocoder",
    about=(
        "Voices that are synthesized as they are needed: a gliding pitch with 29 harmonics, three formants, and "
        "breath, at 8 kHz. A generator in the manner of HiFi-GAN, from 20 bands to the wave, with two upsamplings by "
        "4; the spectral loss at three resolutions, no adversary. Adam, four stretches of 1 024 samples, 120 steps."
    ),
    quality="minus spectral loss of held-out voices",
    target=-1.9,
    worst=-20.0,
    variants=VARIANTS,
    rates=(0.0003, 0.001, 0.003, 0.01),
    settings=({}, {"scale": 0.2}),
    train=train,
    steps=120,
    claims=(
        Claim("weight norm converges faster", "steps", *NORM),
        Claim("... with data-dependent initialization", "steps", *INIT),
        Claim("weight norm makes better waves", "quality", *NORM),
        Claim("... with data-dependent initialization", "quality", *INIT),
        Claim("weight norm is less sensitive to the learning rate", "rates", *NORM),
        Claim("... with data-dependent initialization", "rates", *INIT),
        Claim("weight norm is less sensitive to weights that start 5 times smaller", "loss", *NORM, 1),
        Claim("... with data-dependent initialization", "loss", *INIT, 1),
    ),
)

if __name__ == "__main__":
    main(STUDY)
