"""Models drawn at random: constructs in containers in containers, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.fuzz.constructs import CONSTRUCTS, WIDTH, Call, call_with_x
from tests.fuzz.snapshot import seed_everything


class Residual(nn.Module):
    """Adds its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class PreNorm(nn.Module):
    """Normalizes before, and bounds what comes after."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(self.norm(x)))


class Twice(nn.Module):
    """Calls one module twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class UnderNoGrad(nn.Module):
    """A frozen backbone with a head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.inner(x)
        return self.head(h.detach())


class Checkpointed(nn.Module):
    """Computes the inner module again in the backward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class First(nn.Module):
    """Calls a module with the signature and the result that it has, and takes the first tensor of the result."""

    def __init__(self, inner: nn.Module, call: object) -> None:
        super().__init__()
        self.inner, self.call_of = inner, call

    def forward(self, x: Tensor) -> Tensor:
        args, kwargs = self.call_of(x)
        out = self.inner(*args, **kwargs)
        for name in ("logits", "first"):
            if isinstance(out, dict) and name in out:
                return out[name]
        if hasattr(out, "logits"):
            return out.logits
        if isinstance(out, list):
            return torch.stack(out)
        return out[0] if isinstance(out, tuple) else out


class Looped(nn.Module):
    """A list of modules in a loop."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


class Branches(nn.Module):
    """A dict of modules, summed."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({f"branch{index}": each for index, each in enumerate(inner)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x * 1.0) for branch in self.branches.values()]).mean(0)


class SameUnderTwoNames(nn.Module):
    """One module registered twice, then others."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.left, self.right = inner[0], inner[0]
        self.rest = nn.Sequential(*inner[1:])

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.left(x) - self.right(x * 0.5))


ONE: tuple[type[nn.Module], ...] = (Residual, PreNorm, Twice, UnderNoGrad, Checkpointed)
SEVERAL: tuple[type[nn.Module], ...] = (nn.Sequential, Looped, Branches, SameUnderTwoNames)
CONTAINERS = {kind.__name__: kind for kind in ONE + SEVERAL}


@dataclass(frozen=True)
class Plan:
    """A model to build: a construct, or a container with plans for what it holds."""

    kind: str
    inner: tuple[Plan, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.inner))})" if self.inner else self.kind

    def build(self, seed: int) -> nn.Module:
        """Make the model; the same seed makes the same model. The generators are as seeded and advanced afterwards."""
        seed_everything(seed)
        return self._build()

    def _build(self, nested: bool = False) -> nn.Module:
        if self.inner:
            return CONTAINERS[self.kind](*(each._build(nested=True) for each in self.inner))
        made = CONSTRUCTS[self.kind]
        module = made.build()
        return module if made.plain or not nested else First(module, made.calls[0])

    def calls(self, x: Tensor) -> list[Call]:
        """Return the calls that the model must survive."""
        return [call_with_x(x)] if self.inner else [call(x) for call in CONSTRUCTS[self.kind].calls]

    def constructs(self) -> Iterator[str]:
        """Yield the names of the constructs in the model."""
        if not self.inner:
            yield self.kind
        for each in self.inner:
            yield from each.constructs()

    @property
    def copies(self) -> bool:
        """Whether a deep copy of the model does the same, whatever is or is not converted."""
        return all(CONSTRUCTS[name].copies for name in self.constructs())

    def parts(self) -> Iterator[Plan]:
        """Yield smaller plans, the smallest first: to find what a difference is due to."""
        for name in dict.fromkeys(self.constructs()):
            for plan in (Plan(name), Plan("Sequential", (Plan(name),))):
                if plan != self:
                    yield plan
        for each in self.inner:
            if each.inner:
                yield from each.parts()
                yield each


def draw(seed: int) -> Plan:
    """Return the plan of that seed."""
    return _draw(random.Random(f"fuzz {seed}"), depth=0)


def _draw(rng: random.Random, depth: int) -> Plan:
    shape = rng.random()
    if depth >= 3 or shape < (0.15, 0.45, 0.75)[depth]:
        return Plan(rng.choice(sorted(CONSTRUCTS)))
    if shape < (0.45, 0.7, 0.9)[depth]:
        return Plan(rng.choice(ONE).__name__, (_draw(rng, depth + 1),))
    return Plan(
        rng.choice(SEVERAL).__name__, tuple(_draw(rng, depth + 1) for _ in range(rng.randint(2, 4 - min(depth, 2))))
    )
