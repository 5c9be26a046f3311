"""A small transformer without warm-up: plain, sigma reparam, unit norm. ``python transformer.py``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from char_lstm import bits
from study import Claim, Clock, Outcome, Study, is_look, main
from texts import VOCABULARY, text, windows

VARIANTS = {
    "plain": "torch's own initialization",
    "sigma_reparam": '`wnconvert.apply(model, "sigma_reparam")`: all weight matrices',
    "unit_norm": '`wnconvert.apply(model, "unit_norm")`, and `wnconvert.Projection` after each step',
}
WIDTH, HEADS, LENGTH = 64, 4, 48


class Block(nn.Module):
    """Attention to what came before, and two linear layers; layer norm before or after each."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.before = norm == "pre"
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after the block."""
        for norm, part in zip(self.norms, (self.attend, self.think), strict=True):
            x = x + part(norm(x)) if self.before else norm(x + part(x))
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Return what each place takes from those before it."""
        heads = [each(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)]
        return self.out(F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2))

    def think(self, x: Tensor) -> Tensor:
        """Return what each place makes of itself."""
        return self.down(F.gelu(self.up(x)))


class Model(nn.Module):
    """Predicts the next character."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block(norm) for _ in range(2)))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the scores of each next character."""
        places = torch.arange(characters.shape[1])
        return self.output(self.norm(self.blocks(self.embedding(characters) + self.places(places))))


def train(variant: str, rate: float, seed: int, steps: int, norm: str = "pre") -> Outcome:
    """Train one model by Adam at a constant rate from the first step on."""
    training, test = text()
    order = torch.Generator().manual_seed(seed)
    model: nn.Module = Model(norm)
    if variant != "plain":
        model = wnconvert.apply(model, variant, selection=wnconvert.Selection(ops=("linear",))).model
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    if variant == "unit_norm":
        optimizer.register_step_post_hook(wnconvert.Projection(model))
    held_out = windows(test, 128, LENGTH, torch.Generator().manual_seed(0))
    clock, curve = Clock(), []
    for step in range(1, steps + 1):
        now, later = windows(training, 16, LENGTH, order)
        with clock:
            optimizer.zero_grad()
            loss = F.cross_entropy(model.train()(now).flatten(0, 1), later.flatten())
            loss.backward()
            optimizer.step()
        if is_look(step, steps):
            curve.append((step, -bits(model.eval(), *held_out)))
    return Outcome(model, (held_out[0],), curve, clock.seconds, steps)


#: a variant, and the one that it is compared with
SIGMA = ("sigma_reparam", "plain")
UNIT = ("unit_norm", "plain")

STUDY = Study(
    name="transformer",
    title="Transformer without warm-up",
    about=(
        "The same text as for the LSTM; two blocks of width 64 with four heads, layer norm before (pre) or after "
        "(post) each part; a converted weight starts as the plain one. Adam at a constant learning rate, neither "
        "warm-up nor clipping, 16 stretches of 48 characters, 120 steps."
    ),
    quality="minus bits per character",
    target=-3.8,
    worst=-10.0,
    variants=VARIANTS,
    rates=(0.001, 0.003, 0.01, 0.03),
    settings=({"norm": "pre"}, {"norm": "post"}),
    train=train,
    steps=120,
    claims=(
        Claim("sigma reparam is less sensitive to the learning rate", "rates", *SIGMA),
        Claim(
            "sigma reparam trains better without warm-up where layer norm comes last",
            "quality",
            "sigma_reparam",
            "plain",
            1,
        ),
        Claim("sigma reparam converges faster", "steps", *SIGMA),
        Claim("unit norm is less sensitive to the learning rate", "rates", *UNIT),
        Claim("unit norm trains better without warm-up where layer norm comes last", "quality", *UNIT, 1),
        Claim("unit norm converges faster", "steps", *UNIT),
    ),
)

if __name__ == "__main__":
    main(STUDY)
