"""A generative adversarial network with and without spectral norm. ``python gan.py``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from study import Claim, Clock, Outcome, Study, is_look, main

VARIANTS = {
    "plain": "no normalization",
    "plain_times_10": "no normalization, and logits times 10 as with spectral norm",
    "spectral_norm": '`wnconvert.apply(discriminator, "spectral_norm")`',
    "weight_norm": "`wnconvert.apply(discriminator)`",
}
MODES = 8


def ring(count: int, order: torch.Generator) -> Tensor:
    """Return points of eight Gaussians on a circle of radius 2."""
    angles = torch.randint(MODES, (count,), generator=order) * (2 * math.pi / MODES)
    centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    return centres + 0.1 * torch.randn(count, 2, generator=order)


def distance(some: Tensor, others: Tensor) -> float:
    """Return the sliced Wasserstein distance: of 64 projections, the mean distance of sorted values."""
    angles = torch.arange(64) * (math.pi / 64)
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((some @ directions).sort(0).values - (others @ directions).sort(0).values).abs().mean().item()


def _net(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
    )


def train(variant: str, rate: float, seed: int, steps: int, momentum: float = 0.5) -> Outcome:
    """Train one pair by Adam on the logistic loss, one step of each in turn."""
    order = torch.Generator().manual_seed(seed)
    generator, discriminator = _net(8, 2), _net(2, 1)
    judge: nn.Module = discriminator if variant.startswith("plain") else wnconvert.apply(discriminator, variant).model
    optimizers = [torch.optim.Adam(each.parameters(), lr=rate, betas=(momentum, 0.9)) for each in (generator, judge)]
    held_out, codes = ring(2000, torch.Generator().manual_seed(0)), torch.randn(2000, 8, generator=order)
    # a Lipschitz constant of one for each layer would bound the logits by the radius of the data
    gain = 10.0 if variant in ("spectral_norm", "plain_times_10") else 1.0
    clock, curve, recent = Clock(), [], []
    for step in range(1, steps + 1):
        real, code = ring(64, order), torch.randn(64, 8, generator=order)
        with clock:
            made = generator(code)
            optimizers[1].zero_grad()
            (F.softplus(-gain * judge(real)) + F.softplus(gain * judge(made.detach()))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            F.softplus(-gain * judge(made)).mean().backward()
            optimizers[0].step()
        if is_look(step, steps, 20):
            with torch.no_grad():
                recent.append(-distance(generator(codes), held_out))
            curve.append((step, sum(recent[-5:]) / len(recent[-5:])))
    return Outcome(judge, (held_out,), curve, clock.seconds, steps)


#: a variant, and the one that it is compared with
NORM = ("weight_norm", "plain")
SPECTRAL = ("spectral_norm", "plain")

STUDY = Study(
    name="gan",
    title="Generative adversarial network",
    about=(
        "Eight Gaussians on a circle in the plane; generator and discriminator of two hidden layers of 64. Adam on the "
        "logistic loss, 64 points, 400 steps of each. Only the discriminator is normalized; with spectral norm its "
        "logits are multiplied by 10, for a Lipschitz constant of 1 bounds them. Quality is that of the last five of "
        "twenty looks."
    ),
    quality="minus sliced Wasserstein distance",
    target=-0.2,
    worst=-5.0,
    variants=VARIANTS,
    rates=(0.0003, 0.001, 0.003, 0.01),
    settings=({}, {"momentum": 0.9}),
    train=train,
    steps=400,
    claims=(
        Claim("spectral norm makes a better generator", "quality", *SPECTRAL),
        Claim("... also than the same gain without it", "quality", "spectral_norm", "plain_times_10"),
        Claim("... also with a momentum of 0.9", "quality", *SPECTRAL, 1),
        Claim("spectral norm is less sensitive to the learning rate", "rates", *SPECTRAL),
        Claim("spectral norm converges faster", "steps", *SPECTRAL),
        Claim("weight norm makes a better generator", "quality", *NORM),
        Claim("... also with a momentum of 0.9", "quality", *NORM, 1),
        Claim("weight norm is less sensitive to the learning rate", "rates", *NORM),
    ),
)

if __name__ == "__main__":
    main(STUDY)
