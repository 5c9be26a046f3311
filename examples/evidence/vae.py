"""A variational autoencoder of handwritten digits. ``python vae.py``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from classification import digits
from study import Claim, Clock, Outcome, Study, is_look, main, scaled

VARIANTS = {
    "plain": "linear layers with ReLU, torch's own initialization",
    "weight_norm": "`wnconvert.apply(model)`",
    "weight_norm_init": "... and `wnconvert.initialize` on the first 100 images",
    "batch_norm": "a batch norm behind each hidden layer",
}
LATENT = 8


class Model(nn.Module):
    """A Gaussian encoder, and a Bernoulli decoder."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_hidden(64, norm), *_hidden(128, norm), nn.Linear(128, 2 * LATENT))
        self.decoder = nn.Sequential(*_hidden(LATENT, norm), *_hidden(128, norm), nn.Linear(128, 64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of the pixels, and the mean and the logarithm of the variance of the code."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def _hidden(inputs: int, norm: bool) -> list[nn.Module]:
    return [nn.Linear(inputs, 128), *([nn.BatchNorm1d(128)] if norm else []), nn.ReLU()]


def bound(model: nn.Module, images: Tensor) -> Tensor:
    """Return the evidence lower bound in nats for an image, with one sample of the code in training."""
    logits, mean, log_variance = model(images)
    reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
    return -(reconstruction + divergence) / len(images)


def train(variant: str, rate: float, seed: int, steps: int, batch: int = 32, scale: float = 1.0) -> Outcome:
    """Train one model by Adam."""
    images, test_images = (each.flatten(1) for each in digits()[:2])
    order = torch.Generator().manual_seed(seed)
    model: nn.Module = scaled(Model(variant == "batch_norm"), scale)
    if variant.startswith("weight_norm"):
        model = wnconvert.apply(model).model
    if variant == "weight_norm_init":
        wnconvert.initialize(model, [images[:100]])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    clock, curve = Clock(), []
    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (batch,), generator=order)
        with clock:
            optimizer.zero_grad()
            (-bound(model.train(), images[chosen])).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
        if is_look(step, steps):
            curve.append((step, _quality(model, test_images)))
    return Outcome(model, (test_images,), curve, clock.seconds, steps)


@torch.no_grad()
def _quality(model: nn.Module, images: Tensor) -> float:
    return bound(model.eval(), images).item()


#: a variant, and the one that it is compared with
NORM = ("weight_norm", "plain")
INIT = ("weight_norm_init", "plain")
INIT_BATCH = ("weight_norm_init", "batch_norm")
NORM_BATCH = ("weight_norm", "batch_norm")

STUDY = Study(
    name="vae",
    title="Variational autoencoder",
    about=(
        "The same digits; two hidden layers of 128 each in the encoder and the decoder, a code of 8 numbers. Adam, "
        "batches of 32, 300 steps, gradients clipped at a norm of 100. The bound is that at the mean of the code."
    ),
    quality="evidence lower bound at the mean code, nats",
    target=-26.0,
    worst=-100.0,
    variants=VARIANTS,
    rates=(0.0003, 0.001, 0.003, 0.01),
    settings=({}, {"batch": 2}, {"scale": 0.2}, {"scale": 5.0}),
    train=train,
    steps=300,
    claims=(
        Claim("weight norm converges faster than the plain network", "steps", *NORM),
        Claim("... with data-dependent initialization", "steps", *INIT),
        Claim("weight norm reaches a better bound at the mean code", "quality", *NORM),
        Claim("... with data-dependent initialization", "quality", *INIT),
        Claim("... better than batch norm", "quality", *INIT_BATCH),
        Claim("... better than batch norm with batches of two", "quality", *INIT_BATCH, 1),
        Claim("weight norm is less sensitive to the learning rate than the plain network", "rates", *NORM),
        Claim("... with data-dependent initialization", "rates", *INIT),
        Claim("a step with weight norm is cheaper than one with batch norm", "cost", *NORM_BATCH),
        Claim("weight norm is less sensitive to weights that start 5 times smaller", "loss", *NORM, 2),
        Claim("... with data-dependent initialization", "loss", *INIT, 2),
        Claim("weight norm is less sensitive to weights that start 5 times larger", "loss", *NORM, 3),
        Claim("... with data-dependent initialization", "loss", *INIT, 3),
    ),
)

if __name__ == "__main__":
    main(STUDY)
