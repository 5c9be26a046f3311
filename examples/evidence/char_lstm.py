"""A character-level LSTM: plain or with weight norm. ``python char_lstm.py``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from study import Claim, Clock, Outcome, Study, is_look, main, scaled
from texts import VOCABULARY, text, windows

VARIANTS = {
    "plain": "torch's own initialization",
    "weight_norm": "`wnconvert.apply(model)`: the embedding, all weights of the LSTM, and the output layer",
    "weight_norm_init": "... and `wnconvert.initialize` on one batch; of an LSTM that reaches the output layer alone",
}


class Model(nn.Module):
    """Predicts the next character."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.output = nn.Linear(width, VOCABULARY)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the scores of each next character."""
        return self.output(self.lstm(self.embedding(characters))[0])


def train(variant: str, rate: float, seed: int, steps: int, scale: float = 1.0) -> Outcome:
    """Train one model by Adam on stretches of 50 characters, 16 at once."""
    training, test = text()
    order = torch.Generator().manual_seed(seed)
    model: nn.Module = scaled(Model(), scale)
    if variant != "plain":
        model = wnconvert.apply(model).model
    if variant == "weight_norm_init":
        wnconvert.initialize(model, [windows(training, 16, 50, torch.Generator().manual_seed(seed))[0]])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    held_out = windows(test, 128, 50, torch.Generator().manual_seed(0))
    clock, curve = Clock(), []
    for step in range(1, steps + 1):
        now, later = windows(training, 16, 50, order)
        with clock:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(now).flatten(0, 1), later.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if is_look(step, steps):
            curve.append((step, -bits(model, *held_out)))
    return Outcome(model, (held_out[0],), curve, clock.seconds, steps)


@torch.no_grad()
def bits(model: nn.Module, now: Tensor, later: Tensor) -> float:
    """Return the bits per character that the model needs."""
    return F.cross_entropy(model(now).flatten(0, 1), later.flatten()).item() / math.log(2)


#: a variant, and the one that it is compared with
NORM = ("weight_norm", "plain")
INIT = ("weight_norm_init", "plain")

STUDY = Study(
    name="char_lstm",
    title="Character-level LSTM",
    about=(
        "300 000 characters of what Python's `help()` says of the language, and 30 000 more held out; an embedding of "
        "32, one LSTM of 96, a linear layer. Adam, 16 stretches of 50 characters, 200 steps, gradients clipped at 1."
    ),
    quality="minus bits per character",
    target=-3.2,
    worst=-10.0,
    variants=VARIANTS,
    rates=(0.003, 0.01, 0.03, 0.1),
    settings=({}, {"scale": 0.2}, {"scale": 5.0}),
    train=train,
    steps=200,
    claims=(
        Claim("weight norm converges faster in a recurrent net", "steps", *NORM),
        Claim("... with data-dependent initialization", "steps", *INIT),
        Claim("... also by the time that it takes", "time", *INIT),
        Claim("weight norm reaches a better loss on held-out text", "quality", *NORM),
        Claim("... with data-dependent initialization", "quality", *INIT),
        Claim("weight norm is less sensitive to the learning rate", "rates", *NORM),
        Claim("... with data-dependent initialization", "rates", *INIT),
        Claim("weight norm is less sensitive to weights that start 5 times smaller", "loss", *NORM, 1),
        Claim("... with data-dependent initialization", "loss", *INIT, 1),
        Claim("weight norm is less sensitive to weights that start 5 times larger", "loss", *NORM, 2),
        Claim("... with data-dependent initialization", "loss", *INIT, 2),
    ),
)

if __name__ == "__main__":
    main(STUDY)
