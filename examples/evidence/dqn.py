"""Deep Q-learning on CartPole, with and without weight norm. ``python dqn.py``.

Section 5.4 of Salimans and Kingma, "Weight Normalization", 2016, does it on Atari games.
"""

from __future__ import annotations

import random

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wnconvert
from study import Claim, Clock, Outcome, Study, is_look, main

VARIANTS = {
    "plain": "two hidden layers of 64 with ReLU",
    "weight_norm": "`wnconvert.apply(model)`",
    "weight_norm_init": "... and `wnconvert.initialize` on the states of the first 500 random steps",
}
WARM_UP, BATCH, DISCOUNT = 500, 64, 0.99
#: a state, an action, a reward, the next state, and whether the pole fell
Step = tuple[np.ndarray, int, float, np.ndarray, bool]


def train(variant: str, rate: float, seed: int, steps: int) -> Outcome:
    """Train one network by double Q-learning with a target network, one update every two steps of the game."""
    environment, rng = gymnasium.make("CartPole-v1"), random.Random(seed)
    memory = _explored(environment, seed, min(WARM_UP, 50 * steps), rng)
    model: nn.Module = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    if variant != "plain":
        model = wnconvert.apply(model).model
    if variant == "weight_norm_init":
        wnconvert.initialize(model, [torch.from_numpy(np.stack([step[0] for step in memory]))])
    learner = _Learner(model, rate)
    state, _ = environment.reset(seed=seed)
    clock, curve, recent = Clock(), [], []
    for step in range(1, steps + 1):
        epsilon = max(0.05, 1 - step / (steps / 4))
        for _ in range(2):
            action = rng.randrange(2) if rng.random() < epsilon else greedy(model, state)
            later, reward, fell, ended, _ = environment.step(action)
            memory.append((state, action, float(reward), later, fell))
            state = environment.reset()[0] if fell or ended else later
        batch = rng.choices(memory, k=BATCH)
        with clock:
            learner.learn(batch)
        if step % 50 == 0:
            learner.follow()
        if is_look(step, steps, 20):
            recent.append(sum(played(model, 100 * seed + each) for each in range(3)) / 3)
            curve.append((step, sum(recent[-4:]) / len(recent[-4:])))
    states = torch.from_numpy(np.stack([step[0] for step in memory[:500]]))
    return Outcome(model, (states,), curve, clock.seconds, steps)


class _Learner:
    """The model, its target network, and what updates them."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.model, self.optimizer = model, torch.optim.Adam(model.parameters(), lr=rate)
        self.follow()

    def follow(self) -> None:
        """Let the target network be what the model is now: plain, for it is not trained."""
        self.target = wnconvert.fold(self.model).model.requires_grad_(False)

    def learn(self, batch: list[Step]) -> None:
        """Make one step towards the rewards of a batch and what the target network expects after them."""
        states, actions, rewards, later, fell = (torch.from_numpy(np.array(each)) for each in zip(*batch, strict=True))
        with torch.no_grad():
            best = self.model(later).argmax(1, keepdim=True)
            value = rewards.float() + DISCOUNT * self.target(later).gather(1, best).squeeze(1) * (~fell)
        predicted = self.model(states).gather(1, actions[:, None]).squeeze(1)
        self.optimizer.zero_grad()
        F.smooth_l1_loss(predicted, value).backward()
        self.optimizer.step()


def _explored(environment: gymnasium.Env, seed: int, count: int, rng: random.Random) -> list[Step]:
    state, _ = environment.reset(seed=seed)
    steps: list[Step] = []
    for _ in range(count):
        action = rng.randrange(2)
        later, reward, fell, ended, _ = environment.step(action)
        steps.append((state, action, float(reward), later, fell))
        state = environment.reset()[0] if fell or ended else later
    return steps


@torch.no_grad()
def greedy(model: nn.Module, state: np.ndarray) -> int:
    """Return the action that the model thinks best."""
    scores: Tensor = model(torch.from_numpy(state)[None])
    return int(scores.argmax())


def played(model: nn.Module, seed: int) -> float:
    """Return the rewards of one game without exploration, at most 500."""
    environment = gymnasium.make("CartPole-v1")
    state, _ = environment.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        state, reward, fell, ended, _ = environment.step(greedy(model, state))
        total, over = total + float(reward), fell or ended
    return total


#: a variant, and the one that it is compared with
NORM = ("weight_norm", "plain")
INIT = ("weight_norm_init", "plain")

STUDY = Study(
    name="dqn",
    title="Deep Q-learning",
    about=(
        "gymnasium's CartPole-v1, where 500 is all; a net of two hidden layers of 64, double Q-learning with a target "
        "network. Adam, 64 remembered steps an update, 1 500 updates, two steps of the game for each. Quality is the "
        "mean of the last four of twenty looks at three games each. Copying the target network is not in the times."
    ),
    quality="return of a game",
    target=195.0,
    worst=0.0,
    variants=VARIANTS,
    rates=(0.001, 0.003, 0.01, 0.03),
    settings=({},),
    train=train,
    steps=1500,
    claims=(
        Claim("weight norm learns faster in reinforcement learning", "steps", *NORM),
        Claim("... with data-dependent initialization", "steps", *INIT),
        Claim("weight norm reaches a higher return", "quality", *NORM),
        Claim("... with data-dependent initialization", "quality", *INIT),
        Claim("weight norm is less sensitive to the learning rate", "rates", *NORM),
        Claim("... with data-dependent initialization", "rates", *INIT),
    ),
)

if __name__ == "__main__":
    main(STUDY)
